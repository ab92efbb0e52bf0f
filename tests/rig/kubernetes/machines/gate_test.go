package main

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheGatePassesFailsAndWritesDown(t *testing.T) {
	served := 0
	upstream := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served++
		if r.Header.Get("Authorization") != "Bearer t" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, "passed")
	}))
	defer upstream.Close()
	directory := t.TempDir()
	authority, file := filepath.Join(directory, "pem"), filepath.Join(directory, "log")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: upstream.Certificate().Raw})
	if err := os.WriteFile(authority, block, 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := newGate(upstream.URL, authority, file)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewTLSServer(g)
	defer front.Close()
	control := httptest.NewServer(g.control())
	defer control.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: front.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}}}
	call := func(path string) (int, string, http.Header) {
		t.Helper()
		request, _ := http.NewRequest(http.MethodGet, front.URL+path, nil)
		request.Header.Set("Authorization", "Bearer t")
		response, err := client.Do(request)
		if err != nil {
			return 0, "", nil
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(body), response.Header
	}
	fail := func(rule string) {
		t.Helper()
		response, err := http.Post(control.URL+"/fail", "application/json", strings.NewReader(rule))
		if err != nil || response.StatusCode != http.StatusNoContent {
			t.Fatalf("%v %v", response, err)
		}
	}
	if status, body, _ := call("/api?x=y"); status != 200 || body != "passed" {
		t.Errorf("%d %s", status, body)
	}
	fail(`{"method":"GET","path":"^/slow$","status":429,"retry_after":7,"message":"later","times":1}`)
	if status, body, header := call("/slow"); status != 429 || header.Get("Retry-After") != "7" || !strings.Contains(body, `"reason":"TooManyRequests"`) || !strings.Contains(body, `"kind":"Status"`) {
		t.Errorf("%d %s", status, body)
	}
	if status, _, _ := call("/slow"); status != 200 {
		t.Errorf("the rule outlived its times: %d", status)
	}
	fail(`{"path":"lost","status":503,"after":true}`)
	before := served
	if status, _, _ := call("/lost"); status != 503 || served != before+1 {
		t.Errorf("%d, served %d", status, served-before)
	}
	fail(`{"path":"cut","reset":true,"delay":0.01}`)
	if status, _, _ := call("/cut"); status != 0 {
		t.Errorf("the connection was not cut: %d", status)
	}
	request, _ := http.NewRequest(http.MethodDelete, control.URL+"/fail", nil)
	if response, err := http.DefaultClient.Do(request); err != nil || response.StatusCode != http.StatusNoContent {
		t.Fatal(err)
	}
	if status, _, _ := call("/cut"); status != 200 {
		t.Errorf("%d after the rules were dropped", status)
	}
	log, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(log), "Bearer") || !strings.Contains(string(log), `{"method":"GET","path":"/api","query":"x=y","user_agent":"Go-http-client/1.1","status":200}`) {
		t.Errorf("%s %v", log, err)
	}
	if !strings.Contains(string(log), `"path":"/cut","query":"","user_agent":"Go-http-client/1.1","status":0}`) {
		t.Errorf("%s", log)
	}
}

func TestTheGateListensOnLoopbackOnly(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "192.0.2.1:0", "localhost:0", ":0"} {
		if listener, err := loopback(address); err == nil {
			_ = listener.Close()
			t.Errorf("%s was accepted", address)
		}
	}
}
