// Loaded before a contender's own program. SIGUSR2: collects garbage, so that what is measured is held memory; with
// BENCH_PROFILE=<file>: begins a CPU profile, and at the next signal writes it.
import { writeFileSync } from 'node:fs';

const file = process.env.BENCH_PROFILE;
let session = null;
process.on('SIGUSR2', async () => {
  if (!file) return globalThis.gc?.();
  const { Session } = await import('node:inspector/promises');
  if (session === null) {
    session = new Session();
    session.connect();
    await session.post('Profiler.enable');
    await session.post('Profiler.setSamplingInterval', { interval: 200 });
    await session.post('Profiler.start');
  } else {
    const { profile } = await session.post('Profiler.stop');
    writeFileSync(file, JSON.stringify(profile));
    session = null;
  }
});
