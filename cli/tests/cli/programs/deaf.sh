#!/bin/sh
# Stands in for a proxy that does not hear SIGTERM.
trap '' TERM
echo proxy starts >&2
while :; do sleep 1; done
