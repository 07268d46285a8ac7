// Command h2spec asks an HTTP/2 server all that the conformance suite of that name asks, strict cases too, and says what failed.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
)

func main() {
	host := flag.String("host", "127.0.0.1", "the server's host")
	port := flag.Int("port", 80, "the server's port")
	path := flag.String("path", "/", "the path that is asked for")
	patience := flag.Duration("timeout", 2*time.Second, "how long an answer may take")
	flag.Parse()
	asked := config.Config{
		Host:         *host,
		Port:         *port,
		Path:         *path,
		Timeout:      *patience,
		MaxHeaderLen: 4000,
		Strict:       true,
		Sections:     flag.Args(),
	}
	passed, err := h2spec.Run(&asked)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || !passed {
		os.Exit(1)
	}
}
