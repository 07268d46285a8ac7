package part

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// made is the time of everything in an image: the same files give the same image.
const made = "1970-01-01T00:00:00Z"

// Image packs files into an image of one layer, as `ctr images import` takes it: no registry is asked.
func Image() int {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	name := flags.String("name", "", "the image's full name")
	out := flags.String("out", "", "the archive to write")
	entry := flags.String("entry", "", "the program that it runs; none where a pod says it")
	if flags.Parse(os.Args[1:]) != nil {
		return 2
	}
	layer, err := layer(flags.Args())
	if err == nil {
		err = pack(*name, *out, *entry, layer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// layer holds the files, given as place=source, and the folders that they are in.
func layer(files []string) ([]byte, error) {
	slices.Sort(files)
	folders := map[string]bool{"tmp": true, "etc": true}
	for _, file := range files {
		place, _, _ := strings.Cut(file, "=")
		for folder := path.Dir(strings.TrimPrefix(place, "/")); folder != "."; folder = path.Dir(folder) {
			folders[folder] = true
		}
	}
	names := make([]string, 0, len(folders))
	for folder := range folders {
		names = append(names, folder)
	}
	slices.Sort(names)
	var bytes bytes.Buffer
	archive := tar.NewWriter(&bytes)
	for _, name := range names {
		mode := int64(0o755)
		if name == "tmp" {
			mode = 0o1777
		}
		header := tar.Header{Name: name + "/", Mode: mode, Typeflag: tar.TypeDir}
		if err := archive.WriteHeader(&header); err != nil {
			return nil, err
		}
	}
	for _, file := range files {
		place, source, _ := strings.Cut(file, "=")
		content, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		if err := add(archive, strings.TrimPrefix(place, "/"), 0o755, content); err != nil {
			return nil, err
		}
	}
	err := archive.Close()
	return bytes.Bytes(), err
}

func add(archive *tar.Writer, name string, mode int64, content []byte) error {
	header := tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}
	if err := archive.WriteHeader(&header); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

func pack(name, out, entry string, layer []byte) error {
	container := map[string]any{"Env": []string{"PATH=/usr/local/bin:/bin"}, "WorkingDir": "/"}
	if entry != "" {
		container["Entrypoint"] = []string{entry}
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(layer))
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": made, "config": container,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{digest}},
		"history": []any{map[string]any{"created": made}},
	})
	if err != nil {
		return err
	}
	file := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]any{map[string]any{"Config": file, "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	var bytes bytes.Buffer
	archive := tar.NewWriter(&bytes)
	for _, part := range []struct {
		name    string
		content []byte
	}{{file, config}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		if err := add(archive, part.name, 0o644, part.content); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, bytes.Bytes(), 0o644)
}
