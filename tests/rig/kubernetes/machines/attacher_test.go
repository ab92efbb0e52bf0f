package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// tinyPVE is as much of Proxmox VE as the attacher needs: one machine, tasks that end at once.
type tinyPVE struct {
	mu       sync.Mutex
	config   map[string]any
	tasks    []string
	noUnlink bool
	calls    []string
}

func (p *tinyPVE) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := func(data any) { _ = json.NewEncoder(w).Encode(map[string]any{"data": data}) }
	if r.Header.Get("Authorization") != "PVEAPIToken=csi@pve!t=secret" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body := map[string]string{}
	if r.Method != http.MethodGet {
		_ = json.NewDecoder(r.Body).Decode(&body)
		p.calls = append(p.calls, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api2/json/nodes/pve1/qemu/201/"))
	}
	switch path := strings.TrimPrefix(r.URL.Path, "/api2/json"); {
	case path == "/cluster/resources":
		answer([]map[string]any{{"type": "qemu", "vmid": 201, "name": "w1", "node": "pve1"}, {"type": "lxc", "vmid": 9}})
	case strings.Contains(path, "/tasks/"):
		answer(map[string]string{"status": "stopped", "exitstatus": p.tasks[len(p.tasks)-1]})
	case path == "/nodes/pve1/qemu/201/unlink" && !p.noUnlink:
		delete(p.config, body["idlist"])
		answer(nil)
	case path == "/nodes/pve1/qemu/201/config" && r.Method == http.MethodGet:
		answer(p.config)
	case path == "/nodes/pve1/qemu/201/config":
		end := "OK"
		for key, value := range body {
			switch {
			case key == "delete":
				delete(p.config, value)
			case strings.Contains(value, "-unplugged"):
				end = "no such volume"
			default:
				p.config[key] = value
			}
		}
		p.tasks = append(p.tasks, end)
		answer(fmt.Sprintf("UPID:pve1:%d:qmconfig:201:csi@pve!t:", len(p.tasks)))
	default:
		w.WriteHeader(http.StatusNotImplemented)
	}
}

// testAttacher is an attacher in front of a tiny Proxmox VE and a cluster of one node and one volume.
func testAttacher(t *testing.T, pve *tinyPVE, annotations map[string]string) (*attacher, *fake.Clientset) {
	t.Helper()
	server := httptest.NewTLSServer(pve)
	t.Cleanup(server.Close)
	directory := t.TempDir()
	certificate, token := filepath.Join(directory, "pem"), filepath.Join(directory, "token")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for file, data := range map[string][]byte{certificate: block, token: []byte("csi@pve!t=secret\n")} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client, err := newPVEClient(server.URL, certificate, token)
	if err != nil {
		t.Fatal(err)
	}
	volumeName := "pvc-a"
	cluster := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1", Annotations: annotations}, Spec: corev1.NodeSpec{ProviderID: "proxmox://pve/201"}},
		&storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "w1"}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: driverName, NodeID: "w1"}}}},
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: volumeName}, Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driverName, VolumeHandle: "pve/pve1/local-lvm/vm-9999-pvc-a"}}}},
		&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va"}, Spec: storagev1.VolumeAttachmentSpec{
			Attacher: driverName, NodeName: "w1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volumeName}}},
	)
	factory := informers.NewSharedInformerFactory(cluster, 0)
	a := newAttacher(cluster, client, time.Second)
	a.attachments, a.nodes = factory.Storage().V1().VolumeAttachments().Lister(), factory.Core().V1().Nodes().Lister()
	a.csiNodes, a.volumes = factory.Storage().V1().CSINodes().Lister(), factory.Core().V1().PersistentVolumes().Lister()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return a, cluster
}

func attachment(t *testing.T, cluster *fake.Clientset) *storagev1.VolumeAttachment {
	t.Helper()
	va, err := cluster.StorageV1().VolumeAttachments().Get(context.Background(), "va", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return va
}

// deleted marks the attachment as one that somebody deletes; the fake cluster does not do that itself.
func deleted(t *testing.T, cluster *fake.Clientset) {
	t.Helper()
	va := attachment(t, cluster)
	now := metav1.Now()
	va.DeletionTimestamp = &now
	if _, err := cluster.StorageV1().VolumeAttachments().Update(context.Background(), va, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestAVolumeIsPluggedAndUnpluggedByThePluginsRequests(t *testing.T) {
	for _, noUnlink := range []bool{false, true} {
		pve := &tinyPVE{noUnlink: noUnlink, config: map[string]any{"scsi0": "x:boot", "scsi1": "x:foreign", "scsi3": "x:more"}}
		a, cluster := testAttacher(t, pve, nil)
		if _, err := a.sync(context.Background(), "va"); err != nil {
			t.Fatal(err)
		}
		va := attachment(t, cluster)
		if !va.Status.Attached || va.Status.AttachmentMetadata["lun"] != "2" || va.Finalizers[0] != attachFinalizer || va.Annotations[nodeIDOnAttachment] != "w1" {
			t.Errorf("%+v", va)
		}
		if want := "local-lvm:vm-9999-pvc-a,backup=0,iothread=1,replicate=0,wwn=0x5056432d49443032"; pve.config["scsi2"] != want {
			t.Errorf("scsi2: %v", pve.config["scsi2"])
		}
		deleted(t, cluster)
		if _, err := a.sync(context.Background(), "va"); err != nil {
			t.Fatal(err)
		}
		if pve.config["scsi2"] != nil {
			t.Error("the disk is still there")
		}
		if va, err := cluster.StorageV1().VolumeAttachments().Get(context.Background(), "va", metav1.GetOptions{}); err == nil && len(va.Finalizers) > 0 {
			t.Error("the finalizer is still there")
		}
		if !noUnlink && strings.Join(pve.calls, ",") != "POST config,PUT unlink" {
			t.Errorf("%v", pve.calls)
		}
	}
}

func TestAFullMachineSaysSoInTheAttachment(t *testing.T) {
	pve := &tinyPVE{config: map[string]any{}}
	for slot := 0; slot <= lastSlot; slot++ {
		pve.config[slotName(slot)] = fmt.Sprintf("x:%d", slot)
	}
	a, cluster := testAttacher(t, pve, nil)
	if _, err := a.sync(context.Background(), "va"); err == nil {
		t.Error("no error, so no other try")
	}
	status := attachment(t, cluster).Status
	if status.Attached || status.AttachError == nil || status.AttachError.Message != "rpc error: code = Internal desc = no free lun found" || *status.AttachError.ErrorCode != 13 {
		t.Errorf("%+v", status)
	}
}

func TestTheAttachersFailures(t *testing.T) {
	t.Run("stuck", func(t *testing.T) {
		pve := &tinyPVE{config: map[string]any{}}
		a, cluster := testAttacher(t, pve, map[string]string{modeAnnotation: modeStuck})
		if after, err := a.sync(context.Background(), "va"); err != nil || after == 0 {
			t.Errorf("%v, %v", after, err)
		}
		if va := attachment(t, cluster); va.Status.Attached || len(va.Finalizers) > 0 {
			t.Errorf("%+v", va)
		}
	})
	t.Run("silent hot-plug failure", func(t *testing.T) {
		pve := &tinyPVE{config: map[string]any{}}
		a, cluster := testAttacher(t, pve, map[string]string{modeAnnotation: "x, " + modeSilent})
		if _, err := a.sync(context.Background(), "va"); err != nil {
			t.Fatal(err)
		}
		if va := attachment(t, cluster); !va.Status.Attached || pve.config["scsi1"] != nil || pve.tasks[0] == "OK" {
			t.Errorf("%+v %v %v", va.Status, pve.config, pve.tasks)
		}
	})
	t.Run("ghost", func(t *testing.T) {
		pve := &tinyPVE{config: map[string]any{}}
		a, cluster := testAttacher(t, pve, map[string]string{modeAnnotation: modeGhost})
		if _, err := a.sync(context.Background(), "va"); err != nil {
			t.Fatal(err)
		}
		deleted(t, cluster)
		if _, err := a.sync(context.Background(), "va"); err != nil {
			t.Fatal(err)
		}
		if pve.config["scsi1"] == nil {
			t.Error("the ghost is gone")
		}
	})
}

func TestSlotsHandlesAndIDs(t *testing.T) {
	if v, err := parseVolume("r/z/s/9999/vm-9999-pvc-a.raw"); err != nil || v.disk != "9999/vm-9999-pvc-a.raw" {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := parseVolume("r/z/s"); err == nil {
		t.Error("three parts are no handle")
	}
	if vmid, ok := parseProviderID("proxmox://r/207"); !ok || vmid != 207 {
		t.Error("providerID")
	}
	for _, id := range []string{"", "proxmox://207", "aws://r/207", "proxmox://r/x"} {
		if _, ok := parseProviderID(id); ok {
			t.Errorf("%q was read", id)
		}
	}
	if name, vmid, err := parseNodeID("w1/201"); err != nil || name != "w1" || vmid != 201 {
		t.Error("node ID")
	}
	// scsi30 is Proxmox VE's last and nobody's slot here, but a volume there counts as attached.
	config := map[string]any{"scsi30": "s:vm-9999-pvc-a"}
	if slot, there := attachedSlot(config, "vm-9999-pvc-a"); !there || slot != 30 {
		t.Error("scsi30 is not looked at")
	}
	value, err := diskValue(volume{storage: "s", disk: "d"}, map[string]string{"ssd": "true", "diskIOPS": "100", "backup": "true", "cache": "none"}, true, 9)
	if want := "s:d,backup=1,cache=none,discard=on,iops_rd=100,iops_wr=100,iothread=1,replicate=0,ro=1,ssd=1,wwn=0x5056432d49443039"; err != nil || value != want {
		t.Errorf("%s, %v", value, err)
	}
}
