"""What `launch.compile` is made of: machines that are not there, programs from shapes alone, and what their compilation tells."""
