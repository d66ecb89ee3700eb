"""The polyclinic command: polyclinic <noun> <verb>."""
