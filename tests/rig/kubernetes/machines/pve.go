package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// pve is the attacher's client of the PVE API.
type pve struct {
	address string
	token   string
	client  *http.Client
}

func newPVE(address, certificate, tokenFile string) (*pve, error) {
	pem, err := os.ReadFile(certificate)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", certificate)
	}
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	return &pve{address: address, token: strings.TrimSpace(string(token)), client: &http.Client{Transport: transport, Timeout: time.Minute}}, nil
}

// call sends one request and decodes its data. The error never has the token in it.
func (p *pve) call(ctx context.Context, method, path string, form url.Values, into any) error {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	request, err := http.NewRequestWithContext(ctx, method, p.address+"/api2/json"+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "PVEAPIToken="+p.token)
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, path, response.Status)
	}
	return json.Unmarshal(content, &struct {
		Data any `json:"data"`
	}{into})
}

func (g *guest) path() string {
	return fmt.Sprintf("/nodes/%s/qemu/%d", g.Node, g.VMID)
}

// config reads the configuration with pending changes merged in, as go-proxmox does.
func (p *pve) config(ctx context.Context, g *guest) (map[string]any, error) {
	config := map[string]any{}
	return config, p.call(ctx, http.MethodGet, g.path()+"/config", nil, &config)
}

// change makes a change as a task and follows it to its end.
func (p *pve) change(ctx context.Context, g *guest, form url.Values) error {
	var upid string
	if err := p.call(ctx, http.MethodPost, g.path()+"/config", form, &upid); err != nil {
		return err
	}
	return p.follow(ctx, g.Node, upid)
}

func (p *pve) follow(ctx context.Context, node, upid string) error {
	for {
		var task struct {
			Status     string `json:"status"`
			ExitStatus string `json:"exitstatus"`
		}
		if err := p.call(ctx, http.MethodGet, "/nodes/"+node+"/tasks/"+url.PathEscape(upid)+"/status", nil, &task); err != nil {
			return err
		}
		if task.Status == "stopped" {
			if task.ExitStatus != "OK" && !strings.HasPrefix(task.ExitStatus, "WARNINGS") {
				return fmt.Errorf("task failed: %s", task.ExitStatus)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
