// Loaded before a contender's own program. SIGUSR2: collects garbage, so that what is measured is held memory; with
// BENCH_PROFILE=<file>: begins a CPU profile, and at the next signal writes it.
import { writeFileSync } from 'node:fs';
import { Session } from 'node:inspector';

const file = process.env.BENCH_PROFILE;
let session = null;

function toggle() {
  if (session === null) {
    session = new Session();
    session.connect();
    session.post('Profiler.enable');
    session.post('Profiler.setSamplingInterval', { interval: 200 });
    session.post('Profiler.start');
  } else {
    session.post('Profiler.stop', (error, result) => {
      if (error) throw error;
      writeFileSync(file, JSON.stringify(result.profile));
    });
    session = null;
  }
}

process.on('SIGUSR2', () => (file ? toggle() : globalThis.gc?.()));
