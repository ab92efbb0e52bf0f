package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// cloudConfig is a cloud-config document with the keys that this program acts on.
type cloudConfig map[string]any

// instance is what cloud-init would work from: user data over vendor data, and the metadata.
type instance struct {
	id       string
	hostname string
	config   cloudConfig
}

// readSeed checks a seed as cloud-init would and merges it. schema names the cloud-init program; empty
// skips its check.
func readSeed(ctx context.Context, s *seed, schema, directory string) (*instance, error) {
	user, err := readCloudConfig(ctx, s.UserData, "user-data", schema, directory)
	if err != nil {
		return nil, err
	}
	vendor, err := readCloudConfig(ctx, s.VendorData, "vendor-data", schema, directory)
	if err != nil {
		return nil, err
	}
	var metadata map[string]any
	if err := yaml.Unmarshal([]byte(s.MetaData), &metadata); err != nil {
		return nil, errors.New("meta-data is not YAML")
	}
	config := mergeConfig(user, vendor)
	found := &instance{id: text(metadata["instance-id"]), config: config}
	found.hostname = effectiveHostname(config, text(metadata["local-hostname"]))
	return found, nil
}

// readCloudConfig accepts what begins with #cloud-config and passes "cloud-init schema". cloud-init itself
// only warns of data that its schema refuses and goes on without what it cannot use; here such data is
// refused whole, since a machine that boots half configured is the failure to find.
func readCloudConfig(ctx context.Context, data, name, schema, directory string) (cloudConfig, error) {
	if strings.TrimSpace(data) == "" {
		return cloudConfig{}, nil
	}
	if first, _, _ := strings.Cut(data, "\n"); strings.TrimRight(first, " \t\r") != "#cloud-config" {
		return nil, fmt.Errorf("%s does not begin with #cloud-config", name)
	}
	if schema != "" {
		file := filepath.Join(directory, name)
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			return nil, err
		}
		defer os.Remove(file)
		// Root and a network are not needed: only "schema --system" reads the instance's own data.
		output, err := exec.CommandContext(ctx, schema, "schema", "--config-file", file).CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("cloud-init schema refuses %s: %s", name, schemaVerdict(string(output)))
		}
		if err != nil {
			return nil, fmt.Errorf("cloud-init schema does not run: %w", err)
		}
	}
	config := cloudConfig{}
	if err := yaml.Unmarshal([]byte(data), &config); err != nil {
		return nil, fmt.Errorf("%s is not a YAML mapping", name)
	}
	return config, nil
}

// schemaVerdict shortens the schema's complaint to the key and the rule: the rest quotes the data.
func schemaVerdict(output string) string {
	var lines []string
	for _, line := range strings.Split(output, "\n") {
		line = strings.TrimSpace(line)
		_, complaint, found := strings.Cut(line, "Cloud config schema errors:")
		if !found {
			continue
		}
		for _, part := range strings.Split(complaint, ", ") {
			key, rule, found := strings.Cut(strings.TrimSpace(part), ": ")
			if !found || strings.ContainsAny(key, "'\"{}[]") {
				continue
			}
			if at := strings.LastIndex(rule, " is not "); at >= 0 {
				rule = rule[at+1:]
			} else if at := strings.Index(rule, "is not valid yaml"); at < 0 && len(rule) > 60 {
				rule = rule[:60]
			}
			lines = append(lines, key+": "+rule)
		}
	}
	if len(lines) == 0 {
		return "it gives no reason"
	}
	return scrub(strings.Join(lines, "; "))
}

// mergeConfig lays user data over vendor data: cloud-init's mergemanydict takes the first source that has
// a key, merges mappings and replaces everything else.
func mergeConfig(user, vendor map[string]any) cloudConfig {
	merged := cloudConfig{}
	for key, value := range vendor {
		merged[key] = value
	}
	for key, value := range user {
		below, lower := merged[key].(map[string]any)
		above, upper := value.(map[string]any)
		if lower && upper {
			merged[key] = map[string]any(mergeConfig(above, below))
		} else {
			merged[key] = value
		}
	}
	return merged
}

// imageHostname is the name that a cloud image carries when nobody names it.
const imageHostname = "ubuntu"

// effectiveHostname follows get_hostname_fqdn (cloudinit/util.py) and _select_hostname of the distribution:
// the short name, unless prefer_fqdn_over_hostname asks for the long one.
func effectiveHostname(config cloudConfig, local string) string {
	if truth(config["preserve_hostname"]) {
		return imageHostname
	}
	hostname, fqdn := text(config["hostname"]), text(config["fqdn"])
	switch {
	case fqdn != "":
		if hostname == "" {
			hostname, _, _ = strings.Cut(fqdn, ".")
		}
	case strings.Contains(hostname, "."):
		fqdn = hostname
		hostname, _, _ = strings.Cut(hostname, ".")
	case hostname == "" && local != "":
		if ip := net.ParseIP(local); ip != nil && ip.To4() != nil {
			local = "ip-" + strings.ReplaceAll(local, ".", "-")
		}
		fqdn = local
		hostname, _, _ = strings.Cut(local, ".")
	}
	if truth(config["prefer_fqdn_over_hostname"]) && fqdn != "" {
		return fqdn
	}
	if hostname == "" {
		return imageHostname
	}
	return hostname
}

func truth(value any) bool {
	switch v := value.(type) {
	case bool:
		return v
	case string:
		return strings.EqualFold(v, "true") || v == "1" || strings.EqualFold(v, "yes") || strings.EqualFold(v, "on")
	}
	return false
}

// writeFiles plays the write_files module below root. deferred chooses the entries that cloud-init writes
// in its last stage. A path that leaves root through ".." or a symbolic link is refused.
func writeFiles(config cloudConfig, root string, deferred bool) error {
	entries, _ := config["write_files"].([]any)
	guard, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer guard.Close()
	for i, entry := range entries {
		file, ok := entry.(map[string]any)
		if !ok || text(file["path"]) == "" || truth(file["defer"]) != deferred {
			continue
		}
		name := text(file["path"])
		for _, part := range strings.Split(name, "/") {
			if part == ".." {
				return fmt.Errorf("write_files entry %d leaves the file system", i+1)
			}
		}
		content, err := decodeContent(text(file["content"]), text(file["encoding"]))
		if err != nil {
			return fmt.Errorf("write_files entry %d: %w", i+1, err)
		}
		inside := strings.TrimPrefix(path.Clean("/"+name), "/")
		if inside == "" {
			return fmt.Errorf("write_files entry %d names no file", i+1)
		}
		if err := guard.MkdirAll(path.Dir(inside), 0o700); err != nil {
			return fmt.Errorf("write_files entry %d: %w", i+1, err)
		}
		flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		if truth(file["append"]) {
			flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
		}
		// The mode of the data is not applied: whatever it says, only the owner reads it here.
		handle, err := guard.OpenFile(inside, flags, 0o600)
		if err != nil {
			return fmt.Errorf("write_files entry %d: %w", i+1, err)
		}
		_, err = handle.Write(content)
		if closeErr := handle.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return fmt.Errorf("write_files entry %d: %w", i+1, err)
		}
	}
	return nil
}

// decodeContent knows the encodings of cc_write_files.py; an unknown one counts as text there too.
func decodeContent(content, encoding string) ([]byte, error) {
	data := []byte(content)
	encoding = strings.ToLower(strings.TrimSpace(encoding))
	switch encoding {
	case "b64", "base64", "gz+base64", "gzip+base64", "gz+b64", "gzip+b64":
		compact := strings.Map(func(r rune) rune {
			if strings.ContainsRune(" \t\r\n", r) {
				return -1
			}
			return r
		}, content)
		decoded, err := base64.StdEncoding.DecodeString(compact)
		if err != nil {
			return nil, errors.New("content is not base64")
		}
		data = decoded
	}
	if strings.HasPrefix(encoding, "gz") {
		reader, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, errors.New("content is not gzip")
		}
		if data, err = io.ReadAll(io.LimitReader(reader, 64<<20)); err != nil {
			return nil, errors.New("content is not gzip")
		}
	}
	return data, nil
}

// commands lists the entries of bootcmd or runcmd: a list is an argument vector, a text is a shell line.
func commands(config cloudConfig, key string) ([]command, error) {
	entries, ok := config[key].([]any)
	if !ok {
		return nil, nil
	}
	var list []command
	for i, entry := range entries {
		label := key + " entry " + strconv.Itoa(i+1)
		switch v := entry.(type) {
		case string:
			parsed, err := parseShell(v)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", label, err)
			}
			for _, c := range parsed {
				c.label = label
				list = append(list, c)
			}
		case []any:
			c := command{label: label}
			for _, word := range v {
				c.words = append(c.words, text(word))
			}
			list = append(list, c)
		case nil:
		default:
			return nil, fmt.Errorf("%s is neither a text nor a list", label)
		}
	}
	return list, nil
}
