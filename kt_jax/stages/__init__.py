"""The method, one file a box: each reads finished artifacts and writes one directory."""
