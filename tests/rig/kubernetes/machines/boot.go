package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
)

// bootRun is one machine between power-on and power-off.
type bootRun struct {
	joiner    *joiner
	ctx       context.Context
	guest     guest
	record    *record
	directory string
	root      string
	// kubelet is set while the kubelet of this boot runs.
	kubelet bool
}

func (b *bootRun) joined() bool {
	if b.record.Adopted != "" {
		return true
	}
	_, err := os.Stat(filepath.Join(b.root, kubeletConf))
	return err == nil
}

// up starts the kubelet of a machine that has joined. systemd does so once the network is online, which is
// after bootcmd (cloud-init.service is ordered before network-online.target) and long before cloud-init's
// last stage.
func (b *bootRun) up() {
	if b.joined() && !b.kubelet {
		b.startKubelet()
	}
}

// cloudInit reads the seed and does what it asks for: commands of bootcmd at every boot, the rest once per
// instance-id.
func (b *bootRun) cloudInit() error {
	j := b.joiner
	s, err := j.guests.seed(b.ctx, b.guest.VMID)
	if err != nil {
		b.up()
		return err
	}
	if s == nil || s.Error != "" {
		b.up()
		var why error
		if s != nil {
			why = errors.New(s.Error)
		}
		if !b.kubelet {
			j.writeStatus(b.guest.VMID, b.guest.Name, phaseNoSeed, why)
		}
		return j.writeRecord(b.guest.VMID, b.record)
	}
	i, err := readSeed(b.ctx, s, j.schema, b.directory)
	if err != nil {
		b.up()
		if !b.kubelet {
			j.writeStatus(b.guest.VMID, b.guest.Name, phaseRefused, err)
		}
		return j.writeRecord(b.guest.VMID, b.record)
	}
	b.record.Network = s.NetworkConfig
	fresh := b.record.Instance != i.id || i.id == "" && b.record.Hostname == ""
	if fresh {
		b.record.Hostname = i.hostname
		b.record.Instance = i.id
	}
	if err := j.writeRecord(b.guest.VMID, b.record); err != nil {
		return err
	}
	attempts, err := b.stages(i.config, fresh)
	if err != nil {
		if !b.kubelet {
			j.writeStatus(b.guest.VMID, b.record.Hostname, phaseFailed, err)
		}
		return nil
	}
	if !attempts && !b.kubelet && fresh {
		j.writeStatus(b.guest.VMID, b.record.Hostname, phaseNoSeed, errors.New("no command joins a cluster"))
	}
	return nil
}

// stages runs cloud-init's modules in their order: bootcmd, write_files, the deferred files, runcmd. It
// says whether a join was among them.
func (b *bootRun) stages(config cloudConfig, fresh bool) (joins bool, err error) {
	early, err := commands(config, "bootcmd")
	if err != nil {
		b.up()
		return false, err
	}
	joins, err = b.runCommands(oncePerInstance(early, fresh))
	b.up()
	if err != nil || !fresh {
		return joins, err
	}
	if err := writeFiles(config, b.root, false); err != nil {
		return joins, err
	}
	late, err := commands(config, "runcmd")
	if err != nil {
		return joins, err
	}
	if err := writeFiles(config, b.root, true); err != nil {
		return joins, err
	}
	more, err := b.runCommands(late)
	return joins || more, err
}

// oncePerInstance unwraps "cloud-init-per instance NAME COMMAND", which runs at the first boot of an instance only.
func oncePerInstance(list []command, fresh bool) []command {
	var due []command
	for _, c := range list {
		program, arguments := c.program()
		if program != "cloud-init-per" || len(arguments) < 3 || arguments[0] == "always" {
			due = append(due, c)
		} else if fresh {
			c.words = arguments[2:]
			due = append(due, c)
		}
	}
	return due
}

// runCommands interprets "kubeadm join" and "kubeadm reset" and passes over everything else. As in the
// script that cloud-init makes, a failed command does not stop the following ones.
func (b *bootRun) runCommands(list []command) (joins bool, err error) {
	succeeded := true
	for _, c := range unwrapShells(list) {
		if c.after == "&&" && !succeeded || c.after == "||" && succeeded || c.after == "|" {
			continue
		}
		program, arguments := c.program()
		verb := ""
		if len(arguments) > 0 {
			verb = arguments[0]
		}
		switch {
		case program == "kubeadm" && verb == "join":
			joins = true
			succeeded = b.join(arguments[1:])
		case program == "kubeadm" && verb == "reset":
			succeeded = b.reset(arguments[1:])
		default:
			// Only the program's name: its arguments are user data.
			logf("joiner: %d: %s is passed over (%s)", b.guest.VMID, c.label, program)
			succeeded = true
		}
		if b.ctx.Err() != nil {
			return joins, nil
		}
	}
	return joins, nil
}

// join runs one "kubeadm join" and, when it succeeds, the kubelet.
func (b *bootRun) join(arguments []string) bool {
	j, hostname := b.joiner, b.record.Hostname
	name := hostname
	command, err := parseJoin(arguments, b.root, hostname)
	if err != nil {
		j.writeStatus(b.guest.VMID, name, phaseFailed, err, arguments...)
		return false
	}
	name = command.config.NodeRegistration.Name
	command.limit(j.discovery, j.bootstrap)
	if b.record.Adopted != "" && !slices.Contains(command.ignore, "all") {
		err = errors.New("[preflight] Some fatal errors occurred: [ERROR FileAvailable--etc-kubernetes-kubelet.conf]: /etc/kubernetes/kubelet.conf already exists")
	} else {
		err = runJoin(b.ctx, command, b.root, hostname, func(phase string) {
			j.writeStatus(b.guest.VMID, name, phase, nil)
		})
	}
	if b.ctx.Err() != nil {
		return false
	}
	if err != nil {
		if b.kubelet {
			// The node of an earlier join goes on; only this attempt is lost.
			logf("joiner: %d %s: join failed: %s", b.guest.VMID, name, scrub(err.Error(), command.secrets()...))
			return false
		}
		j.writeStatus(b.guest.VMID, name, phaseFailed, err, command.secrets()...)
		return false
	}
	b.startKubelet()
	return true
}

// reset is "kubeadm reset": without --force it asks a question that nobody answers in cloud-init.
func (b *bootRun) reset(arguments []string) bool {
	if !slices.Contains(arguments, "-f") && !slices.Contains(arguments, "--force") && !slices.Contains(arguments, "--force=true") {
		logf("joiner: %d: kubeadm reset without --force is aborted", b.guest.VMID)
		return false
	}
	if name := b.record.Adopted; name != "" {
		b.joiner.keeper.exclude(name)
	}
	if b.record.Node != "" {
		b.joiner.keeper.forget(b.record.Node, b.guest.VMID)
	}
	b.record.Adopted, b.record.Node = "", ""
	b.kubelet = false
	for _, path := range []string{kubeletConf, bootstrapConf, "etc/kubernetes/pki", "etc/kubernetes/manifests", kubeletDirectory} {
		if err := os.RemoveAll(filepath.Join(b.root, path)); err != nil {
			logf("joiner: %d: kubeadm reset: %s", b.guest.VMID, err)
			return false
		}
	}
	if err := b.joiner.writeRecord(b.guest.VMID, b.record); err != nil {
		return false
	}
	logf("joiner: %d: kubeadm reset", b.guest.VMID)
	return true
}

// startKubelet runs the kubelet from the files on the machine's disk: its flags, its certificate, the
// registration, then the keeper takes over.
func (b *bootRun) startKubelet() {
	j, g := b.joiner, b.guest
	hostname := b.record.Hostname
	flags, err := readKubeletFlags(b.root, hostname)
	if err != nil {
		j.writeStatus(g.VMID, hostname, phaseFailed, err)
		return
	}
	m := newMachine(g, flags, b.record.Network, j.version)
	id := identity{name: flags.nodeName, vmid: g.VMID, starts: g.Starts, machine: m, registered: true}
	b.kubelet = true
	b.record.Node = flags.nodeName
	if err := j.writeRecord(g.VMID, b.record); err != nil {
		logf("joiner: %d: %s", g.VMID, err)
	}
	m.onStatus = func() { j.writeStatus(g.VMID, flags.nodeName, phaseReady, nil) }
	if b.record.Adopted != "" {
		id.client = j.admin
		go func() {
			if err := j.comeBack(b.ctx, m); err == nil {
				// The status of a recorded node stays as it was recorded.
				id.machine = nil
				j.keeper.keep(id)
				j.writeStatus(g.VMID, flags.nodeName, phaseReady, nil)
			}
		}()
		return
	}
	client, err := nodeClient(b.root)
	if err != nil {
		b.kubelet = false
		j.writeStatus(g.VMID, flags.nodeName, phaseFailed, err)
		return
	}
	id.client = client
	j.keeper.exclude(flags.nodeName)
	j.writeStatus(g.VMID, flags.nodeName, phaseRegistering, nil)
	go func() {
		said := ""
		done := registerNode(b.ctx, client, m.node(), func(err error) {
			if message := scrub(err.Error()); message != said {
				said = message
				j.writeStatus(g.VMID, flags.nodeName, phaseRegistering, err)
			}
		})
		if done {
			j.keeper.keep(id)
		}
	}()
}
