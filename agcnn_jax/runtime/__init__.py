"""Services for any program on many hosts: storage, devices, processes, exit statuses."""
