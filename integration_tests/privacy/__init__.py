"""The privacy gate before real servers and proxies."""
