package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// seed is what a VM finds when it boots, as the double's control API reads it from what the VM was given.
type seed struct {
	Source  string  `json:"source"`
	User    *string `json:"user-data"`
	Meta    *string `json:"meta-data"`
	Vendor  *string `json:"vendor-data"`
	Network *string `json:"network-config"`
	Error   *string `json:"error"`
}

// cloudConfig is the part of a cloud-config that decides whether and how a node joins.
type cloudConfig struct {
	Hostname   string      `json:"hostname"`
	FQDN       string      `json:"fqdn"`
	WriteFiles []writeFile `json:"write_files"`
	BootCmd    []any       `json:"bootcmd"`
	RunCmd     []any       `json:"runcmd"`
}

type writeFile struct {
	Path     string `json:"path"`
	Content  string `json:"content"`
	Encoding string `json:"encoding"`
}

// defaultHostname is what cloud images call themselves until they are told otherwise.
const defaultHostname = "ubuntu"

// checkSchema asks the real cloud-init whether it takes the data.
func checkSchema(ctx context.Context, command, folder, kind, text string) error {
	if !strings.HasPrefix(text, "#cloud-config") {
		return fmt.Errorf("%s does not begin with #cloud-config", kind)
	}
	file := filepath.Join(folder, kind)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	output, err := exec.CommandContext(ctx, command, "schema", "--config-file", file).CombinedOutput()
	if err != nil {
		// cloud-init names the keys and quotes values only that are not of their type.
		return fmt.Errorf("cloud-init schema refuses %s: %v: %s", kind, err, firstLines(string(output), 3))
	}
	return nil
}

func firstLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[:min(count, len(lines))], "; ")
}

// merged is the user data over the vendor data: cloud-init keeps the user's value of a key that both have.
func merged(s *seed) (*cloudConfig, error) {
	all := map[string]any{}
	for _, text := range []*string{s.Vendor, s.User} {
		if text == nil {
			continue
		}
		part := map[string]any{}
		if err := yaml.Unmarshal([]byte(*text), &part); err != nil {
			return nil, err
		}
		for key, value := range part {
			all[key] = value
		}
	}
	body, err := yaml.Marshal(all)
	if err != nil {
		return nil, err
	}
	config := &cloudConfig{}
	return config, yaml.Unmarshal(body, config)
}

// hostname is what the machine calls itself: user data first, then meta data, then the image's own.
func hostname(config *cloudConfig, meta *string) string {
	for _, name := range []string{config.Hostname, strings.Split(config.FQDN, ".")[0], fieldOf(meta, "local-hostname"), fieldOf(meta, "hostname")} {
		if name != "" {
			return strings.Split(name, ".")[0]
		}
	}
	return defaultHostname
}

func fieldOf(text *string, name string) string {
	if text == nil {
		return ""
	}
	fields := map[string]any{}
	if yaml.Unmarshal([]byte(*text), &fields) != nil {
		return ""
	}
	value, _ := fields[name].(string)
	return value
}

// content decodes a file as cloud-init's write_files does.
func (f *writeFile) content() ([]byte, error) {
	body := []byte(f.Content)
	encoding := strings.ToLower(f.Encoding)
	if strings.Contains(encoding, "b64") || strings.Contains(encoding, "base64") {
		decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(f.Content), ""))
		if err != nil {
			return nil, err
		}
		body = decoded
	}
	if strings.HasPrefix(encoding, "gz") {
		reader, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(reader)
	}
	return body, nil
}

// writeFiles puts the files below root; a path that leads out of it is refused.
func writeFiles(root string, files []writeFile) error {
	for _, file := range files {
		if !strings.HasPrefix(file.Path, "/") || !filepath.IsLocal(strings.TrimPrefix(filepath.Clean(file.Path), "/")) {
			return fmt.Errorf("write_files has no absolute path: %s", file.Path)
		}
		body, err := file.content()
		if err != nil {
			return fmt.Errorf("write_files %s: %v", file.Path, err)
		}
		path := filepath.Join(root, filepath.Clean(file.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, body, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// errNoJoin says that the data do not make a node of the machine.
var errNoJoin = errors.New("no command joins a cluster")

// joinCommand is the `kubeadm join` among the commands, as words.
func joinCommand(config *cloudConfig) ([]string, error) {
	for _, command := range append(append([]any{}, config.BootCmd...), config.RunCmd...) {
		var words []string
		switch value := command.(type) {
		case string:
			words = strings.Fields(value)
		case []any:
			for _, word := range value {
				words = append(words, fmt.Sprint(word))
			}
		}
		if len(words) == 3 && filepath.Base(words[0]) == "sh" && words[1] == "-c" {
			words = strings.Fields(words[2])
		}
		if len(words) >= 2 && filepath.Base(words[0]) == "kubeadm" && words[1] == "join" {
			return words[2:], nil
		}
	}
	return nil, errNoJoin
}
