"""Ways into other people's programs; each has an extra of its own in pip."""
