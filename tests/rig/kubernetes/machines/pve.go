package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// pveClient speaks to Proxmox VE as the CSI plugin does through luthermonson/go-proxmox: JSON bodies, an
// API token in the Authorization header, and errors with the texts of that library, because they end up
// in a VolumeAttachment.
type pveClient struct {
	base   string
	token  string
	client *http.Client
	// noUnlink is set once the server has said that it does not know PUT …/unlink.
	noUnlink atomic.Bool
}

// pveError keeps the status apart from the text that go-proxmox would have made of it.
type pveError struct {
	status int
	text   string
}

func (e *pveError) Error() string { return e.text }

// rootsFrom reads the certificates that a client trusts.
func rootsFrom(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

func newPVEClient(base, certificate, tokenFile string) (*pveClient, error) {
	pool, err := rootsFrom(certificate)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, err
	}
	return &pveClient{
		base:  strings.TrimSuffix(base, "/") + "/api2/json",
		token: strings.TrimSpace(string(token)),
		client: &http.Client{
			Timeout:   60 * time.Second,
			Transport: &http.Transport{Proxy: nil, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
		},
	}, nil
}

func (c *pveClient) do(ctx context.Context, method, path string, body map[string]string, into any) error {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Authorization", "PVEAPIToken="+c.token)
	request.Header.Set("User-Agent", "go-proxmox/dev")
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return err
	}
	// The cases of go-proxmox's Req and handleResponse.
	switch status := response.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return &pveError{status, "not authorized to access endpoint"}
	case status == http.StatusInternalServerError || status == http.StatusNotImplemented:
		return &pveError{status, response.Status}
	case status == http.StatusBadRequest:
		var errorsByKey struct {
			Errors json.RawMessage `json:"errors"`
		}
		if json.Unmarshal(data, &errorsByKey) == nil && errorsByKey.Errors != nil {
			data = errorsByKey.Errors
		}
		return &pveError{status, fmt.Sprintf("bad request: %s - %s", response.Status, bytes.TrimSpace(data))}
	case status >= 300:
		return &pveError{status, response.Status}
	}
	if into == nil {
		return nil
	}
	var wrapped struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(data, &wrapped); err != nil {
		return err
	}
	if len(wrapped.Data) == 0 || string(wrapped.Data) == "null" {
		return nil
	}
	return json.Unmarshal(wrapped.Data, into)
}

// pveGuest is a row of cluster/resources.
type pveGuest struct {
	Type     string `json:"type"`
	VMID     int    `json:"vmid"`
	Name     string `json:"name"`
	Node     string `json:"node"`
	Template loose  `json:"template"`
}

// errNoVM is go-proxmox's ErrVirtualMachineNotFound.
var errNoVM = errors.New("virtual machine not found")

// guests lists the virtual machines of the cluster.
func (c *pveClient) guests(ctx context.Context) ([]pveGuest, error) {
	var rows []pveGuest
	if err := c.do(ctx, http.MethodGet, "/cluster/resources?type=vm", nil, &rows); err != nil {
		return nil, err
	}
	machines := rows[:0]
	for _, row := range rows {
		if row.Type == "qemu" || row.Type == "" {
			machines = append(machines, row)
		}
	}
	return machines, nil
}

// vm is one virtual machine with the configuration that Proxmox VE answers, pending changes applied.
type vm struct {
	vmid   int
	node   string
	name   string
	config map[string]any
}

// findVM looks a machine up by number and reads its configuration.
func (c *pveClient) findVM(ctx context.Context, vmid int) (*vm, error) {
	rows, err := c.guests(ctx)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if row.VMID == vmid {
			return c.readVM(ctx, row)
		}
	}
	return nil, errNoVM
}

// findVMByName follows FindVMByNode of the plugin: the name must begin with the node's name and the SMBIOS
// UUID must be the one that the node reports. A node without a reported UUID matches by its exact name.
func (c *pveClient) findVMByName(ctx context.Context, node, systemUUID string) (*vm, error) {
	rows, err := c.guests(ctx)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if !strings.HasPrefix(row.Name, node) || bool(row.Template) {
			continue
		}
		if systemUUID == "" && row.Name != node {
			continue
		}
		machine, err := c.readVM(ctx, row)
		if err != nil {
			return nil, err
		}
		uuid := smbiosUUID(text(machine.config["smbios1"]))
		if systemUUID == "" || strings.EqualFold(uuid, systemUUID) || uuid == "" && row.Name == node {
			return machine, nil
		}
	}
	return nil, errNoVM
}

func (c *pveClient) readVM(ctx context.Context, row pveGuest) (*vm, error) {
	machine := &vm{vmid: row.VMID, node: row.Node, name: row.Name}
	path := fmt.Sprintf("/nodes/%s/qemu/%d/config", url.PathEscape(row.Node), row.VMID)
	if err := c.do(ctx, http.MethodGet, path, nil, &machine.config); err != nil {
		return nil, err
	}
	return machine, nil
}

// setDisk is the plugin's way to plug a disk: POST config, which answers a task.
func (c *pveClient) setDisk(ctx context.Context, machine *vm, slot, value string) (task string, err error) {
	path := fmt.Sprintf("/nodes/%s/qemu/%d/config", url.PathEscape(machine.node), machine.vmid)
	err = c.do(ctx, http.MethodPost, path, map[string]string{slot: value}, &task)
	return task, err
}

// unlinkDisk is the plugin's way to unplug: PUT unlink with idlist, which Proxmox VE turns into delete=scsiN
// and which answers no task. A server without that path gets the delete itself.
func (c *pveClient) unlinkDisk(ctx context.Context, machine *vm, slot string) (task string, err error) {
	path := fmt.Sprintf("/nodes/%s/qemu/%d", url.PathEscape(machine.node), machine.vmid)
	if !c.noUnlink.Load() {
		err = c.do(ctx, http.MethodPut, path+"/unlink", map[string]string{"idlist": slot}, &task)
		var answer *pveError
		if !errors.As(err, &answer) || answer.status != http.StatusNotImplemented && answer.status != http.StatusNotFound {
			return task, err
		}
		c.noUnlink.Store(true)
	}
	err = c.do(ctx, http.MethodPost, path+"/config", map[string]string{"delete": slot}, &task)
	return task, err
}

// taskTimeout is the plugin's bound for a task: WaitFor(ctx, 5*60) in pkg/csi/utils.go.
const taskTimeout = 5 * time.Minute

// taskInterval is DefaultWaitInterval of go-proxmox.
const taskInterval = time.Second

// follow waits until a task has stopped and answers its exit status. It does not judge it: go-proxmox's
// WaitFor ends without an error when a task failed, and the plugin asks no further. That is how a failed
// hot-plug looks like success there.
func (c *pveClient) follow(ctx context.Context, node, task string) (exit string, err error) {
	if !strings.HasPrefix(task, "UPID:") {
		return "", nil
	}
	if parts := strings.Split(task, ":"); len(parts) > 1 {
		node = parts[1]
	}
	path := fmt.Sprintf("/nodes/%s/tasks/%s/status", url.PathEscape(node), url.PathEscape(task))
	deadline := time.Now().Add(taskTimeout)
	for {
		var status struct {
			Status string `json:"status"`
			Exit   string `json:"exitstatus"`
		}
		if err := c.do(ctx, http.MethodGet, path, nil, &status); err != nil {
			return "", err
		}
		if status.Status != "running" {
			return status.Exit, nil
		}
		if time.Now().After(deadline) {
			return "", errors.New("the operation has timed out")
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(taskInterval):
		}
	}
}

// smbiosUUID takes the uuid out of a smbios1 value such as "uuid=…,serial=…".
func smbiosUUID(value string) string {
	for _, part := range strings.Split(value, ",") {
		if uuid, ok := strings.CutPrefix(part, "uuid="); ok {
			return strings.ToLower(uuid)
		}
	}
	return ""
}

// wholeNumber reads a configuration number, with a default when it is absent or no number.
func wholeNumber(value string, otherwise int) int {
	number, err := strconv.Atoi(value)
	if err != nil {
		return otherwise
	}
	return number
}
