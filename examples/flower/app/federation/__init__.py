"""A federation on images: two models, one client, one server."""
