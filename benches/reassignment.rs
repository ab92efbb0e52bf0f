//! Machine reassignment, ROADEF/EURO 2012: the nearest public test of plans whose every state must hold.
//!
//! A process that moves takes its transient resources on both machines until all is done, processes of a
//! service keep apart, services are spread and depend on each other. Simulated annealing over moves and swaps,
//! feasible at every step, on two threads with different seeds; the better result counts.
//!
//! `CAPPLAN_TEST_DATA=… cargo bench --bench reassignment [-- SECONDS [INSTANCE …]]`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Cost that the winner of the challenge reached in 60 s where that was measured, in 300 s elsewhere, and the
/// best lower bound that is published.
///
/// # Source
/// Team S41 (`harisgavranovic/roadef-challenge2012-S41`), bounds of team J12.
const KNOWN: [(&str, i64, i64); 10] = [
    ("a1_1", 44_306_501, 44_306_390),
    ("a1_2", 778_488_431, 777_530_730),
    ("a1_3", 583_006_422, 583_005_700),
    ("a1_4", 267_971_730, 242_387_530),
    ("a1_5", 727_578_310, 727_578_290),
    ("a2_1", 329, 0),
    ("a2_2", 764_855_995, 13_590_090),
    ("a2_3", 1_231_006_125, 521_441_700),
    ("a2_4", 1_680_615_349, 1_680_222_380),
    ("a2_5", 353_385_598, 307_035_180),
];

struct Machine {
    neighbourhood: usize,
    location: usize,
    capacity: Vec<i64>,
    safety: Vec<i64>,
    move_cost: Vec<i64>,
}

struct Service {
    spread: usize,
    /// Services that must be in every neighbourhood where this one is.
    needs: Vec<usize>,
    /// Services that need this one.
    needed_by: Vec<usize>,
}

struct Process {
    service: usize,
    wants: Vec<i64>,
    move_cost: i64,
}

struct Balance {
    first: usize,
    second: usize,
    target: i64,
    weight: i64,
}

struct Instance {
    transient: Vec<bool>,
    load_weight: Vec<i64>,
    machines: Vec<Machine>,
    services: Vec<Service>,
    processes: Vec<Process>,
    balances: Vec<Balance>,
    process_weight: i64,
    service_weight: i64,
    machine_weight: i64,
    home: Vec<usize>,
    locations: usize,
    neighbourhoods: usize,
}

impl Instance {
    fn read(model: &Path, assignment: &Path) -> Self {
        let numbers = |path: &Path| -> Vec<i64> {
            let text = std::fs::read_to_string(path).expect("the instance is readable");
            text.split_whitespace().map(|word| word.parse().expect("a number")).collect()
        };
        let mut words = numbers(model).into_iter();
        let mut next = || words.next().expect("the model is whole");
        let size = |number: i64| usize::try_from(number).expect("a count");
        let resources = size(next());
        let (mut transient, mut load_weight) = (Vec::new(), Vec::new());
        for _ in 0..resources {
            transient.push(next() == 1);
            load_weight.push(next());
        }
        let count = size(next());
        let mut machines = Vec::new();
        for _ in 0..count {
            let (neighbourhood, location) = (size(next()), size(next()));
            let capacity = (0..resources).map(|_| next()).collect();
            let safety = (0..resources).map(|_| next()).collect();
            let move_cost = (0..count).map(|_| next()).collect();
            machines.push(Machine { neighbourhood, location, capacity, safety, move_cost });
        }
        let count = size(next());
        let mut services: Vec<Service> = Vec::new();
        for _ in 0..count {
            let spread = size(next());
            let needs = (0..next()).map(|_| size(next())).collect();
            services.push(Service { spread, needs, needed_by: Vec::new() });
        }
        for service in 0..services.len() {
            for need in services[service].needs.clone() {
                services[need].needed_by.push(service);
            }
        }
        let count = size(next());
        let mut processes = Vec::new();
        for _ in 0..count {
            let service = size(next());
            let wants = (0..resources).map(|_| next()).collect();
            processes.push(Process { service, wants, move_cost: next() });
        }
        let count = size(next());
        let mut balances = Vec::new();
        for _ in 0..count {
            let (first, second, target, weight) = (size(next()), size(next()), next(), next());
            balances.push(Balance { first, second, target, weight });
        }
        let (process_weight, service_weight, machine_weight) = (next(), next(), next());
        let home = numbers(assignment).into_iter().map(size).collect();
        let locations = machines.iter().map(|one| one.location).max().unwrap_or(0) + 1;
        let neighbourhoods = machines.iter().map(|one| one.neighbourhood).max().unwrap_or(0) + 1;
        Self {
            transient,
            load_weight,
            machines,
            services,
            processes,
            balances,
            process_weight,
            service_weight,
            machine_weight,
            home,
            locations,
            neighbourhoods,
        }
    }

    /// Cost of an assignment, from the definition; `None` if it breaks a rule.
    fn cost(&self, at: &[usize]) -> Option<i64> {
        let resources = self.transient.len();
        let mut used = vec![vec![0; resources]; self.machines.len()];
        let mut also = used.clone();
        let mut moved = vec![0; self.services.len()];
        let mut sum = 0;
        for (number, process) in self.processes.iter().enumerate() {
            let (home, now) = (self.home[number], at[number]);
            for resource in 0..resources {
                used[now][resource] += process.wants[resource];
                if home != now && self.transient[resource] {
                    also[home][resource] += process.wants[resource];
                }
            }
            if home != now {
                moved[process.service] += 1;
                sum += self.process_weight * process.move_cost + self.machine_weight * self.machines[home].move_cost[now];
            }
        }
        sum += self.service_weight * moved.iter().copied().max().unwrap_or(0);
        for (number, machine) in self.machines.iter().enumerate() {
            let fits = (0..resources).all(|one| used[number][one] + also[number][one] <= machine.capacity[one]);
            if !fits {
                return None;
            }
            sum += self.machine_cost(number, &used[number]);
        }
        for (number, service) in self.services.iter().enumerate() {
            let mine = || self.processes.iter().zip(at).filter(move |(one, _)| one.service == number).map(|(_, now)| *now);
            let unique: std::collections::BTreeSet<usize> = mine().collect();
            let places: std::collections::BTreeSet<usize> = mine().map(|now| self.machines[now].location).collect();
            let near = |service: usize| -> std::collections::BTreeSet<usize> {
                let theirs = self.processes.iter().zip(at).filter(|(one, _)| one.service == service);
                theirs.map(|(_, now)| self.machines[*now].neighbourhood).collect()
            };
            if unique.len() != mine().count() || places.len() < service.spread {
                return None;
            }
            if !service.needs.iter().all(|need| near(number).is_subset(&near(*need))) {
                return None;
            }
        }
        Some(sum)
    }

    /// Load and balance cost of a machine that is used so.
    fn machine_cost(&self, number: usize, used: &[i64]) -> i64 {
        let machine = &self.machines[number];
        let over = |resource: usize| (used[resource] - machine.safety[resource]).max(0) * self.load_weight[resource];
        let free = |resource: usize| machine.capacity[resource] - used[resource];
        let tilt = |one: &Balance| (one.target * free(one.first) - free(one.second)).max(0) * one.weight;
        (0..used.len()).map(over).sum::<i64>() + self.balances.iter().map(tilt).sum::<i64>()
    }
}

/// An assignment with everything that is needed to judge a move quickly.
struct Search<'i> {
    instance: &'i Instance,
    at: Vec<usize>,
    used: Vec<Vec<i64>>,
    /// Transient resources of processes that left.
    also: Vec<Vec<i64>>,
    machine_cost: Vec<i64>,
    /// Processes by service and machine, location, neighbourhood.
    on: Vec<Vec<u16>>,
    places: Vec<Vec<u16>>,
    near: Vec<Vec<u16>>,
    spread: Vec<usize>,
    moved: Vec<usize>,
    /// Services by the number of their processes that moved.
    moved_so: Vec<usize>,
    most_moved: usize,
    cost: i64,
    scratch: Vec<i64>,
}

impl<'i> Search<'i> {
    fn new(instance: &'i Instance) -> Self {
        let (machines, services, resources) = (instance.machines.len(), instance.services.len(), instance.transient.len());
        let mut search = Self {
            instance,
            at: instance.home.clone(),
            used: vec![vec![0; resources]; machines],
            also: vec![vec![0; resources]; machines],
            machine_cost: vec![0; machines],
            on: vec![vec![0; machines]; services],
            places: vec![vec![0; instance.locations]; services],
            near: vec![vec![0; instance.neighbourhoods]; services],
            spread: vec![0; services],
            moved: vec![0; services],
            moved_so: vec![0; instance.processes.len() + 1],
            most_moved: 0,
            cost: 0,
            scratch: vec![0; resources],
        };
        search.moved_so[0] = services;
        for process in 0..search.at.len() {
            search.count(process, search.at[process], true);
        }
        for machine in 0..machines {
            search.machine_cost[machine] = instance.machine_cost(machine, &search.used[machine]);
            search.cost += search.machine_cost[machine];
        }
        search
    }

    /// Counts a process in or out of a machine: not its moves.
    fn count(&mut self, process: usize, machine: usize, arrives: bool) {
        let one = &self.instance.processes[process];
        let place = &self.instance.machines[machine];
        for (used, want) in self.used[machine].iter_mut().zip(&one.wants) {
            *used += if arrives { *want } else { -want };
        }
        let step = |count: &mut u16| if arrives { *count += 1 } else { *count -= 1 };
        step(&mut self.on[one.service][machine]);
        let before = self.places[one.service][place.location] > 0;
        step(&mut self.places[one.service][place.location]);
        let after = self.places[one.service][place.location] > 0;
        self.spread[one.service] = self.spread[one.service] + usize::from(after) - usize::from(before);
        step(&mut self.near[one.service][place.neighbourhood]);
    }

    /// Whether a process may leave for another machine, as far as services ask; `without` has left already.
    fn services_allow(&self, process: usize, to: usize) -> bool {
        let instance = self.instance;
        let service = instance.processes[process].service;
        let (from, target) = (&instance.machines[self.at[process]], &instance.machines[to]);
        if self.on[service][to] > 0 {
            return false;
        }
        if from.location != target.location {
            let lost = usize::from(self.places[service][from.location] == 1);
            let won = usize::from(self.places[service][target.location] == 0);
            if self.spread[service] + won < instance.services[service].spread + lost {
                return false;
            }
        }
        if from.neighbourhood != target.neighbourhood {
            let rules = &instance.services[service];
            if rules.needs.iter().any(|need| self.near[*need][target.neighbourhood] == 0) {
                return false;
            }
            let last = self.near[service][from.neighbourhood] == 1;
            if last && rules.needed_by.iter().any(|other| *other != service && self.near[*other][from.neighbourhood] > 0) {
                return false;
            }
        }
        true
    }

    /// Whether a machine has room for a process, once `leaving` has left it.
    fn has_room(&self, process: usize, to: usize, leaving: Option<usize>) -> bool {
        let instance = self.instance;
        let wants = &instance.processes[process].wants;
        let comes_home = instance.home[process] == to;
        (0..wants.len()).all(|resource| {
            let transient = instance.transient[resource];
            let mut taken = self.used[to][resource] + self.also[to][resource];
            if let Some(other) = leaving {
                // One that leaves its home keeps its transient resources there.
                if !(transient && instance.home[other] == to) {
                    taken -= instance.processes[other].wants[resource];
                }
            }
            if !(transient && comes_home) {
                taken += wants[resource];
            }
            taken <= instance.machines[to].capacity[resource]
        })
    }

    /// Cost of a machine once `arrives` came and `leaves` left.
    fn cost_with(&mut self, machine: usize, arrives: Option<usize>, leaves: Option<usize>) -> i64 {
        self.scratch.copy_from_slice(&self.used[machine]);
        for (process, sign) in [(arrives, 1), (leaves, -1)] {
            if let Some(process) = process {
                let wants = &self.instance.processes[process].wants;
                self.scratch.iter_mut().zip(wants).for_each(|(used, want)| *used += sign * want);
            }
        }
        self.instance.machine_cost(machine, &self.scratch)
    }

    fn move_cost(&self, process: usize, to: usize) -> i64 {
        let instance = self.instance;
        let home = instance.home[process];
        if home == to {
            return 0;
        }
        instance.process_weight * instance.processes[process].move_cost
            + instance.machine_weight * instance.machines[home].move_cost[to]
    }

    /// How the service cost changes if processes go to these machines.
    fn service_delta(&self, moves: &[(usize, usize)]) -> i64 {
        let instance = self.instance;
        let mut most = self.most_moved;
        for (process, to) in moves {
            let (home, now) = (instance.home[*process], self.at[*process]);
            let moved = self.moved[instance.processes[*process].service];
            if now == home && *to != home && moved == most {
                most += 1;
            } else if now != home && *to == home && moved == most && self.moved_so[most] == 1 {
                most -= 1;
            }
        }
        (most as i64 - self.most_moved as i64) * instance.service_weight
    }

    fn carry_out(&mut self, process: usize, to: usize) {
        let instance = self.instance;
        let (home, from) = (instance.home[process], self.at[process]);
        self.count(process, from, false);
        self.count(process, to, true);
        self.at[process] = to;
        let sign = match (from == home, to == home) {
            (true, false) => 1,
            (false, true) => -1,
            _ => return,
        };
        for (resource, want) in instance.processes[process].wants.iter().enumerate() {
            if instance.transient[resource] {
                self.also[home][resource] += sign * want;
            }
        }
        let service = instance.processes[process].service;
        self.moved_so[self.moved[service]] -= 1;
        self.moved[service] = self.moved[service].saturating_add_signed(if sign > 0 { 1 } else { -1 });
        self.moved_so[self.moved[service]] += 1;
        self.most_moved = self.most_moved.max(self.moved[service]);
        while self.most_moved > 0 && self.moved_so[self.most_moved] == 0 {
            self.most_moved -= 1;
        }
    }

    /// How the cost changes if a process moves; `None` if it must not.
    fn try_move(&mut self, process: usize, to: usize) -> Option<(i64, i64, i64)> {
        let from = self.at[process];
        if from == to || !self.services_allow(process, to) || !self.has_room(process, to, None) {
            return None;
        }
        let there = self.cost_with(to, Some(process), None);
        let here = self.cost_with(from, None, Some(process));
        let delta = there + here - self.machine_cost[to] - self.machine_cost[from] + self.move_cost(process, to)
            - self.move_cost(process, from)
            + self.service_delta(&[(process, to)]);
        Some((delta, here, there))
    }

    fn do_move(&mut self, process: usize, to: usize, (delta, here, there): (i64, i64, i64)) {
        let from = self.at[process];
        self.carry_out(process, to);
        (self.machine_cost[from], self.machine_cost[to]) = (here, there);
        self.cost += delta;
    }

    /// Swaps two processes if `accept` likes the change of the cost.
    fn swap(&mut self, one: usize, other: usize, accept: impl FnOnce(i64) -> bool) -> bool {
        let (a, b) = (self.at[one], self.at[other]);
        let services = (self.instance.processes[one].service, self.instance.processes[other].service);
        if a == b || services.0 == services.1 {
            return false;
        }
        if !self.has_room(one, b, Some(other)) || !self.has_room(other, a, Some(one)) {
            return false;
        }
        if !self.services_allow(one, b) || self.on[services.1][a] > 0 {
            return false;
        }
        let here = self.cost_with(a, Some(other), Some(one));
        let there = self.cost_with(b, Some(one), Some(other));
        let moves = self.move_cost(one, b) + self.move_cost(other, a) - self.move_cost(one, a) - self.move_cost(other, b);
        let most = self.most_moved;
        // One after the other, which the rules about services need; and back if the second may not follow.
        self.carry_out(one, b);
        if !self.services_allow(other, a) {
            self.carry_out(one, a);
            return false;
        }
        self.carry_out(other, a);
        let service = (self.most_moved as i64 - most as i64) * self.instance.service_weight;
        let delta = here + there - self.machine_cost[a] - self.machine_cost[b] + moves + service;
        if accept(delta) {
            (self.machine_cost[a], self.machine_cost[b]) = (here, there);
            self.cost += delta;
            return true;
        }
        self.carry_out(other, b);
        self.carry_out(one, a);
        false
    }
}

/// The best assignment found in `time`, and its cost.
fn anneal(instance: &Instance, seed: u64, (heat, cold): (f64, f64), time: Duration) -> (Vec<usize>, i64) {
    let started = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut search = Search::new(instance);
    let (processes, machines) = (instance.processes.len(), instance.machines.len());
    let mut best = (search.at.clone(), search.cost);
    // Most changes for the worse are small; the landscape is as steep as the rare large ones.
    let mut worse: Vec<i64> = Vec::new();
    for _ in 0..200_000 {
        let change = search.try_move(rng.usize(..processes), rng.usize(..machines));
        worse.extend(change.map(|(delta, ..)| delta).filter(|delta| *delta > 0));
        if worse.len() >= 2_000 {
            break;
        }
    }
    worse.sort_unstable();
    let usual = worse.get(worse.len() / 2).copied().unwrap_or(1) as f64;
    let (hot, cold) = ((usual * heat).max(1.0), (usual * cold).max(0.05));
    let mut temperature = hot;
    let mut steps = 0_u64;
    loop {
        if steps & 0x3ff == 0 {
            let part = started.elapsed().as_secs_f64() / time.as_secs_f64();
            if part >= 1.0 {
                break;
            }
            temperature = hot * (cold / hot).powf(part);
        }
        steps += 1;
        let luck = rng.f64().ln();
        let accept = |delta: i64| delta <= 0 || -(delta as f64) / temperature > luck;
        let process = rng.usize(..processes);
        if rng.u8(..10) < 6 {
            let to = if rng.u8(..20) == 0 { instance.home[process] } else { rng.usize(..machines) };
            if let Some(change) = search.try_move(process, to).filter(|change| accept(change.0)) {
                search.do_move(process, to, change);
            }
        } else {
            search.swap(process, rng.usize(..processes), accept);
        }
        if search.cost < best.1 {
            best.1 = search.cost;
            best.0.clone_from(&search.at);
        }
    }
    best
}

fn main() {
    // `cargo test --benches` runs benches with `--test`: nothing is timed then.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let Some(data) = std::env::var_os("CAPPLAN_TEST_DATA").map(PathBuf::from) else {
        println!("skipped: CAPPLAN_TEST_DATA is not set");
        return;
    };
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    let seconds: u64 = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(60);
    let only = arguments.get(1..).unwrap_or(&[]);
    let folder = data.join("bench/roadef2012/A");
    println!("| instance | initial | found in {seconds} s | known | ratio | ratio above the bound | bound |");
    println!("|---|---|---|---|---|---|---|");
    for (name, known, bound) in KNOWN.iter().filter(|(name, ..)| only.is_empty() || only.iter().any(|one| one == name)) {
        let instance = Instance::read(&folder.join(format!("model_{name}.txt")), &folder.join(format!("assignment_{name}.txt")));
        let initial = instance.cost(&instance.home).expect("the initial assignment is feasible");
        let results: Vec<(Vec<usize>, i64)> = std::thread::scope(|scope| {
            let threads: Vec<_> = [(1, (300.0, 0.1)), (2, (2000.0, 0.01))]
                .map(|(seed, heat)| {
                    scope.spawn({
                        let instance = &instance;
                        move || anneal(instance, seed, heat, Duration::from_secs(seconds))
                    })
                })
                .into();
            threads.into_iter().map(|one| one.join().expect("no thread panics")).collect()
        });
        let (at, cost) = results.into_iter().min_by_key(|(_, cost)| *cost).expect("two results");
        assert_eq!(instance.cost(&at), Some(cost), "{name}: counted again from the definition");
        let ratio = cost as f64 / *known as f64;
        let above = (cost - bound) as f64 / (known - bound).max(1) as f64;
        println!("| {name} | {initial} | {cost} | {known} | {ratio:.4} | {above:.3} | {bound} |");
    }
}
