"""Ways into other people's programs, one a package; each has an extra of its own in pip."""
