package part

import (
	"os"
	_ "time/tzdata"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// API is what an API server takes: its store, itself, and the client that people use.
func API() map[string]func() int {
	return map[string]func() int{
		"etcd": func() int {
			etcdmain.Main(os.Args)
			return 0
		},
		"kube-apiserver": func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
		"kubectl":        func() int { return cli.Run(kubectl.NewDefaultKubectlCommand()) },
		"certificates":   Certificates,
	}
}
