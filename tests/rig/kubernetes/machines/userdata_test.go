package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func mustConfig(t *testing.T, text string) cloudConfig {
	t.Helper()
	config, err := readCloudConfig(context.Background(), text, "user-data", "", "")
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestHostnameIsChosenAsCloudInitDoes(t *testing.T) {
	for _, c := range []struct{ config, local, want string }{
		{"#cloud-config\nhostname: a\n", "m", "a"},
		{"#cloud-config\nfqdn: a.example\n", "m", "a"},
		{"#cloud-config\nfqdn: a.example\nhostname: b\n", "m", "b"},
		{"#cloud-config\nhostname: a.example\n", "m", "a"},
		{"#cloud-config\nhostname: a.example\nprefer_fqdn_over_hostname: true\n", "m", "a.example"},
		{"#cloud-config\npackages: [jq]\n", "m.example", "m"},
		{"#cloud-config\npackages: [jq]\n", "192.0.2.7", "ip-192-0-2-7"},
		{"#cloud-config\npackages: [jq]\n", "", "ubuntu"},
		{"#cloud-config\nhostname: a\npreserve_hostname: true\n", "m", "ubuntu"},
	} {
		if got := effectiveHostname(mustConfig(t, c.config), c.local); got != c.want {
			t.Errorf("%q with %q: %q, want %q", c.config, c.local, got, c.want)
		}
	}
}

func TestUserDataWinsOverVendorDataKeyByKey(t *testing.T) {
	user := mustConfig(t, "#cloud-config\nruncmd: [one]\nchpasswd: {expire: false}\n")
	vendor := mustConfig(t, "#cloud-config\nruncmd: [two]\nbootcmd: [three]\nchpasswd: {list: x, expire: true}\n")
	merged := mergeConfig(user, vendor)
	late, err := commands(merged, "runcmd")
	if err != nil || len(late) != 1 || late[0].words[0] != "one" {
		t.Errorf("runcmd: %v, %v", late, err)
	}
	early, err := commands(merged, "bootcmd")
	if err != nil || len(early) != 1 || early[0].words[0] != "three" {
		t.Errorf("bootcmd: %v, %v", early, err)
	}
	nested, _ := merged["chpasswd"].(map[string]any)
	if nested["expire"] != false || nested["list"] != "x" {
		t.Errorf("chpasswd: %v", nested)
	}
}

func TestUserDataWithoutItsFirstLineIsRefused(t *testing.T) {
	for _, data := range []string{"hostname: a\n", "#!/bin/sh\n", " #cloud-config\n", "#cloud-config-archive\n"} {
		if _, err := readCloudConfig(context.Background(), data, "user-data", "", ""); err == nil {
			t.Errorf("%q was accepted", data)
		}
	}
}

// fakeSchema is a stand-in for cloud-init: a program that fails with the given output.
func fakeSchema(t *testing.T, output string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "cloud-init")
	script := "#!/bin/sh\n[ \"$1 $2\" = 'schema --config-file' ] || exit 9\ncat <<'E' >&2\n" + output + "\nE\nexit 1\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return program
}

func TestARefusalNamesTheKeyAndNotTheData(t *testing.T) {
	// What cloud-init 22.4.2 prints.
	for output, want := range map[string]string{
		"Error:\nCloud config schema errors: runcmd: {'a': 'secret-text'} is not of type 'array'": "runcmd: is not of type 'array'",
		"Cloud config schema errors: format-l1.c1: File x needs to begin with \"#cloud-config\"":  "format-l1.c1: File x needs to begin",
	} {
		directory := t.TempDir()
		_, err := readCloudConfig(context.Background(), "#cloud-config\na: b\n", "user-data", fakeSchema(t, output), directory)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret-text") {
			t.Errorf("%v", err)
		}
		if _, err := os.Stat(filepath.Join(directory, "user-data")); err == nil {
			t.Error("the checked copy of the user data was left behind")
		}
	}
}

func TestFilesAreDecodedAndStayBelowTheirRoot(t *testing.T) {
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	_, _ = writer.Write([]byte("zipped"))
	_ = writer.Close()
	root := t.TempDir()
	config := cloudConfig{"write_files": []any{
		map[string]any{"path": "/etc/plain", "content": "text"},
		map[string]any{"path": "/etc/b64", "content": base64.StdEncoding.EncodeToString([]byte("decoded")), "encoding": "b64"},
		map[string]any{"path": "/etc/gz", "content": base64.StdEncoding.EncodeToString(zipped.Bytes()), "encoding": "gz+b64"},
		map[string]any{"path": "/etc/plain", "content": " more", "append": true},
		map[string]any{"path": "/etc/late", "content": "late", "defer": true},
	}}
	if err := writeFiles(config, root, false); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"plain": "text more", "b64": "decoded", "gz": "zipped"} {
		if data, err := os.ReadFile(filepath.Join(root, "etc", name)); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "etc/late")); err == nil {
		t.Error("a deferred file came early")
	}
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/../up", "/etc/../../up", "/link/up", "/"} {
		bad := cloudConfig{"write_files": []any{map[string]any{"path": path, "content": "x"}}}
		if err := writeFiles(bad, root, false); err == nil {
			t.Errorf("%s was written", path)
		}
	}
	for _, encoding := range []string{"b64", "gz"} {
		bad := cloudConfig{"write_files": []any{map[string]any{"path": "/x", "content": "§", "encoding": encoding}}}
		if err := writeFiles(bad, root, false); err == nil {
			t.Errorf("broken %s was written", encoding)
		}
	}
}

func TestShellLinesAreSplitIntoCommands(t *testing.T) {
	list, err := parseShell("set -e; kubeadm join 'a b' --token \"t\\\"x\" >>/var/log/x 2>&1 || true && echo done | tee x # end\nnext \\\n line")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{":set|-e", ";:kubeadm|join|a b|--token|t\"x", "||:true", "&&:echo|done", "|:tee|x", ";:next|line"}
	var got []string
	for _, c := range list {
		got = append(got, c.after+":"+strings.Join(c.words, "|"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if _, err := parseShell("echo 'open"); err == nil {
		t.Error("an open quote was accepted")
	}
	flat := unwrapShells([]command{{words: []string{"sh", "-ec", "a && kubeadm join x"}, label: "l"}})
	if len(flat) != 2 || flat[1].words[1] != "join" || flat[1].after != "&&" || flat[1].label != "l" {
		t.Errorf("%v", flat)
	}
}
