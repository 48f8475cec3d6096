"""Data sets from the net: downloaded, checked and unpacked, whole or not at all."""
