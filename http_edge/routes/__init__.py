"""The routes: the HTTP wire shapes live here and go no further."""
