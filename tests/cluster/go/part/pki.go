package part

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// lifetime of everything made here: a cluster for tests lives for hours.
const lifetime = 365 * 24 * time.Hour

// writer writes a cluster's keys and certificates; the first fault ends it.
type writer struct {
	folder string
	server string
	inside string
	fault  error
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

// Certificates writes what a cluster's programs know one another by, and a kubeconfig for each that is a client.
//
// What is there already is kept: a cluster that is started again has the same root.
func Certificates() int {
	flags := flag.NewFlagSet("certificates", flag.ContinueOnError)
	folder := flags.String("folder", "", "where they are written")
	server := flags.String("server", "", "the API server's address and port")
	names := flags.String("names", "", "more names and addresses of the API server, by commas")
	nodes := flags.String("nodes", "", "the nodes, as name=address, by commas")
	inside := flags.String("inside", "", "the API server's address and port as the nodes reach it")
	if flags.Parse(os.Args[1:]) != nil {
		return 2
	}
	if _, err := os.Stat(filepath.Join(*folder, "done")); err == nil {
		return 0
	}
	w := &writer{folder: *folder, server: *server, inside: *inside}
	w.all(split(*names), split(*nodes))
	w.file("done", nil, 0o600)
	if w.fault != nil {
		fmt.Fprintln(os.Stderr, w.fault)
		return 1
	}
	return 0
}

func split(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
}

func (w *writer) all(names, nodes []string) {
	w.fault = os.MkdirAll(w.folder, 0o700)
	root := w.authority("ca", "kubernetes")
	front := w.authority("front-proxy-ca", "front-proxy")
	known := append([]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", "::1"}, names...)
	w.leaf(root, "apiserver", pkix.Name{CommonName: "kube-apiserver"}, known)
	w.leaf(front, "front-proxy", pkix.Name{CommonName: "front-proxy"}, nil)
	masters := func(name string) pkix.Name {
		return pkix.Name{CommonName: name, Organization: []string{"system:masters"}}
	}
	w.leaf(root, "kubelet-client", masters("kubelet-client"), nil)
	w.client(root, "admin", masters("admin"), nil)
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		w.client(root, name, pkix.Name{CommonName: "system:" + name}, nil)
	}
	if w.inside != "" {
		w.server = w.inside
	}
	w.client(root, "kube-proxy", pkix.Name{CommonName: "system:kube-proxy"}, nil)
	for _, node := range nodes {
		name, address, _ := strings.Cut(node, "=")
		w.client(root, name, pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}, []string{name, address, "127.0.0.1"})
	}
	w.tokens()
}

// authority makes a root that signs the leaves.
func (w *writer) authority(name, common string) *authority {
	key := w.key()
	if w.fault != nil {
		return &authority{}
	}
	template := w.template(pkix.Name{CommonName: common})
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	made := &authority{certificate: template, key: key}
	made.pem = w.sign(name, made, template, key)
	return made
}

func (w *writer) leaf(by *authority, name string, subject pkix.Name, known []string) (certificate, key []byte) {
	pair := w.key()
	if w.fault != nil {
		return nil, nil
	}
	template := w.template(subject)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, one := range known {
		if address := net.ParseIP(one); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, one)
		}
	}
	certificate = w.sign(name, by, template, pair)
	return certificate, w.private(name, pair)
}

// client makes a leaf and the kubeconfig that shows it.
func (w *writer) client(by *authority, name string, subject pkix.Name, known []string) {
	certificate, key := w.leaf(by, name, subject, known)
	encoded := base64.StdEncoding.EncodeToString
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: "https://%s", certificate-authority-data: %s}}]
users: [{name: %s, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: cluster, context: {cluster: cluster, user: %s}}]
current-context: cluster
`, w.server, encoded(by.pem), name, encoded(certificate), encoded(key), name)
	w.file(name+".kubeconfig", []byte(config), 0o600)
}

// tokens makes the pair that service accounts' tokens are signed and checked with.
func (w *writer) tokens() {
	if w.fault != nil {
		return
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if w.fault = err; err != nil {
		return
	}
	w.private("service-accounts", key)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	w.fault = errors.Join(w.fault, err)
	w.file("service-accounts.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600)
}

func (w *writer) key() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.fault = errors.Join(w.fault, err)
	return key
}

func (w *writer) template(subject pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	w.fault = errors.Join(w.fault, err)
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(lifetime)}
}

func (w *writer) sign(name string, by *authority, template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, &key.PublicKey, by.key)
	w.fault = errors.Join(w.fault, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	w.file(name+".crt", text, 0o600)
	return text
}

func (w *writer) private(name string, key crypto.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	w.fault = errors.Join(w.fault, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	w.file(name+".key", text, 0o600)
	return text
}

func (w *writer) file(name string, bytes []byte, mode os.FileMode) {
	if w.fault == nil {
		w.fault = os.WriteFile(filepath.Join(w.folder, name), bytes, mode)
	}
}
