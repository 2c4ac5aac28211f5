"""Configs: their keys, files, command lines and the copies that runs keep."""
