"""What any program on many hosts needs: storage, devices, processes, how programs end."""
