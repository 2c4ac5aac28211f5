"""The needs of any program on many hosts: storage, devices, processes, how programs end."""
