//! Holds nothing: the tests are in `tests/cluster`, the Go module that Kubernetes is built from in `go`.
