// A pod's application: `echo serve` answers who asked whom on port 8080, `echo get URL` asks once and prints the answer, `echo load URL
// SECONDS` asks on a new connection each time and prints how many calls were answered and how many failed.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// patience is how long one call may take.
const patience = 4 * time.Second

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = http.ListenAndServe(":8080", http.HandlerFunc(answer))
	case len(os.Args) == 3 && os.Args[1] == "get":
		err = get(os.Args[2], os.Stdout)
	case len(os.Args) == 4 && os.Args[1] == "load":
		err = load(os.Args[2], os.Args[3])
	default:
		err = fmt.Errorf("usage: echo serve | get URL | load URL SECONDS")
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	host, _ := os.Hostname()
	fmt.Fprintf(w, "host=%s node=%s from=%s\n", host, os.Getenv("NODE"), r.RemoteAddr)
}

func get(url string, to io.Writer) error {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(to, response.Body)
	return err
}

func load(url, seconds string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	answered, failed := 0, 0
	var last error
	for end := time.Now().Add(time.Duration(n) * time.Second); time.Now().Before(end); {
		if err := get(url, io.Discard); err != nil {
			failed++
			last = err
		} else {
			answered++
		}
	}
	fmt.Printf("answered=%d failed=%d\n", answered, failed)
	return last
}
