package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// guest is one virtual machine as the double's control interface shows it.
type guest struct {
	VMID int    `json:"vmid"`
	Name string `json:"name"`
	// Node is the Proxmox host.
	Node     string         `json:"node"`
	Power    string         `json:"power"`
	Template loose          `json:"template"`
	Config   map[string]any `json:"config"`
	// Starts counts how often the machine was switched on.
	Starts int `json:"starts"`
}

// loose reads a boolean written as true, 1 or "1": Proxmox VE itself uses the number.
type loose bool

func (b *loose) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case "true", "1", `"1"`:
		*b = true
	default:
		*b = false
	}
	return nil
}

func (g guest) running() bool { return g.Power == "running" && !bool(g.Template) }

// setting is a value of the machine's configuration as text, empty when absent.
func (g guest) setting(key string) string { return text(g.Config[key]) }

// text renders a JSON scalar as Proxmox VE writes it into a configuration file.
func text(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "1"
		}
		return "0"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}

// seed is what the double put on the machine's cloud-init drive.
type seed struct {
	Source        string `json:"source"`
	UserData      string `json:"user-data"`
	MetaData      string `json:"meta-data"`
	VendorData    string `json:"vendor-data"`
	NetworkConfig string `json:"network-config"`
	Error         string `json:"error"`
}

// guestWatcher polls the double's control interface. It answers which machine a node is and whether that
// machine runs, and it calls boot for every machine that was switched on since the last poll.
type guestWatcher struct {
	control string
	client  *http.Client
	file    string
	boot    func(guest)

	mu     sync.RWMutex
	byID   map[int]guest
	starts map[int]int
	polled bool
}

func newGuestWatcher(control, state string) *guestWatcher {
	w := &guestWatcher{
		control: control,
		client:  &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Proxy: nil}},
		file:    filepath.Join(state, "starts.json"),
		byID:    map[int]guest{},
		starts:  map[int]int{},
	}
	// What was counted before a restart of this program: a machine started meanwhile boots late, not never.
	if data, err := os.ReadFile(w.file); err == nil {
		if json.Unmarshal(data, &w.starts) == nil {
			w.polled = true
		}
	}
	return w
}

func (w *guestWatcher) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.control+path, nil)
	if err != nil {
		return err
	}
	response, err := w.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return json.Unmarshal(body, into)
}

// poison tells the double to let the next change of a machine's configuration fail as a task.
func (w *guestWatcher) poison(ctx context.Context, machine *vm, failure string) error {
	rule, err := json.Marshal(map[string]any{
		"method": http.MethodPost, "path": fmt.Sprintf("/nodes/%s/qemu/%d/config", machine.node, machine.vmid),
		"task": failure, "times": 1,
	})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.control+"/fail", bytes.NewReader(rule))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := w.client.Do(request)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		err = fmt.Errorf("POST /fail: %s", response.Status)
	}
	return errors.Join(err, response.Body.Close())
}

// seed reads the cloud-init data of a machine; nil when it has none.
func (w *guestWatcher) seed(ctx context.Context, vmid int) (*seed, error) {
	var found seed
	if err := w.get(ctx, fmt.Sprintf("/guests/%d/seed", vmid), &found); err != nil {
		return nil, err
	}
	if found.Error == "" && found.UserData == "" && found.VendorData == "" && found.MetaData == "" {
		return nil, nil
	}
	return &found, nil
}

// poll reads all machines once.
func (w *guestWatcher) poll(ctx context.Context) error {
	var list []guest
	if err := w.get(ctx, "/guests", &list); err != nil {
		return err
	}
	byID := make(map[int]guest, len(list))
	var booted []guest
	w.mu.Lock()
	changed := !w.polled
	for _, g := range list {
		byID[g.VMID] = g
		before, known := w.starts[g.VMID]
		if last, seen := w.byID[g.VMID]; seen && smbiosUUID(last.setting("smbios1")) != smbiosUUID(g.setting("smbios1")) {
			// Another machine got the number of one that was destroyed.
			known = false
		}
		if w.polled && g.running() && (!known && g.Starts > 0 || known && g.Starts > before) {
			booted = append(booted, g)
		}
		if !known || before != g.Starts {
			w.starts[g.VMID] = g.Starts
			changed = true
		}
	}
	for id := range w.starts {
		if _, there := byID[id]; !there {
			delete(w.starts, id)
			changed = true
		}
	}
	w.byID = byID
	w.polled = true
	counts, err := json.Marshal(w.starts)
	w.mu.Unlock()
	if err == nil && changed {
		err = writeFileAtomically(w.file, counts)
	}
	for _, g := range booted {
		w.boot(g)
	}
	return err
}

func (w *guestWatcher) run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	failing := false
	for {
		if err := w.poll(ctx); err != nil && ctx.Err() == nil {
			if !failing {
				logf("guests: the control interface does not answer: %s", scrub(err.Error()))
			}
			failing = true
		} else {
			failing = false
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// find looks a machine up by its number.
func (w *guestWatcher) find(vmid int) (guest, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	g, ok := w.byID[vmid]
	return g, ok
}

// findByName looks a machine up by its name; ambiguous names find nothing.
func (w *guestWatcher) findByName(name string) (guest, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var found guest
	count := 0
	for _, g := range w.byID {
		if g.Name == name && !bool(g.Template) {
			found = g
			count++
		}
	}
	return found, count == 1
}

func writeFileAtomically(path string, data []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
