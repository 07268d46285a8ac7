#!/bin/sh
# Stands in for an agent whose settings can't be used.
echo "error: 1 setting(s) can't be used: --proxy-user: no user is called nobody-here" >&2
exit 2
