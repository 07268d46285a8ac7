// The API server with its store and kubectl, and nothing that acts on objects.
package main

import "millrace.dev/cluster/part"

func main() {
	part.Run(part.API())
}
