"""Key maps as data, one file per family; each defines `LAYOUTS`. A new file here is a new set of layouts."""
