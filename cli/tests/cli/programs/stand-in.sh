#!/bin/sh
# Stands in for the program it is linked as: says that it starts, and waits to be ended.
program=$(basename "$0" | sed 's/^millrace-//')
if [ "$1" = hold ]; then
    echo $$ > "$0.holder.new"
    mv "$0.holder.new" "$0.holder"
    exec sleep 1000
fi
echo "$program starts" >&2
exec sleep 1000
