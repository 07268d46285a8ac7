// Package part runs one of several programs in one binary, by the name it was called by.
//
// One binary links what they share once: a build of all of them takes little longer than a build of the largest.
package part

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Run calls the program that the binary's own name says, or its first argument, and ends with its exit code.
func Run(parts map[string]func() int) {
	name := filepath.Base(os.Args[0])
	run, known := parts[name]
	if !known && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = filepath.Base(os.Args[0])
		run, known = parts[name]
	}
	if !known {
		names := make([]string, 0, len(parts))
		for name := range parts {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Fprintln(os.Stderr, "usage: one of", strings.Join(names, ", "), "and its own flags")
		os.Exit(2)
	}
	os.Exit(run())
}
