//go:build definitions

// Package cluster pins the module whose definitions of Gateway API's kinds a cluster is given; nothing of it is compiled.
package cluster

import _ "sigs.k8s.io/gateway-api/apis/v1"
