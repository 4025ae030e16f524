"""A federation written apart from the library, to judge its shipped defender by."""
