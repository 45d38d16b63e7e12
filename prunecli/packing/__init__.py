"""pack and unpack: torch files with compressed storages, and back."""
