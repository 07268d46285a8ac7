#!/bin/sh
# Stands in for the program it is linked as: says that it starts, and waits to be ended.
program=$(basename "$0" | sed 's/^millrace-//')
if [ "$program" = holder ]; then
    echo $$ > "$0.pid.new"
    mv "$0.pid.new" "$0.pid"
    exec sleep 1000
fi
echo "$program starts" >&2
exec sleep 1000
