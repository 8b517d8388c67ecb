// A process of its own: what a hostile file breaks, or holds up, is this process and nothing else. It has the file as an
// open descriptor, may read its own code, and may write nothing.
import { fstat } from 'node:fs';
import { promisify } from 'node:util';
import { DocumentBeyondLimits } from './errors.ts';
import { failureOf, fileDescriptor, window, type Asked, type Task, type Told } from './messages.ts';
import { pack, type Packed } from './packing.ts';

const tell = (told: Told): Promise<void> =>
  new Promise((resolve, reject) => {
    process.send?.(told, undefined, {}, (error) => (error ? reject(error) : resolve()));
  });

const flow = { untaken: 0, taken: (): void => undefined };

/** Waits while too much is on its way: the memory of the one who reads is bounded by that. */
async function tellBatch(items: readonly Packed[]): Promise<void> {
  while (flow.untaken >= window) await new Promise<void>((resolve) => (flow.taken = resolve));
  flow.untaken += 1;
  await tell({ kind: 'BATCH', items });
}

async function run(task: Task): Promise<void> {
  const file = { fd: fileDescriptor, sizeBytes: (await promisify(fstat)(fileDescriptor)).size };
  try {
    const { maxBytes } = task.limits;
    if (file.sizeBytes > maxBytes) throw new DocumentBeyondLimits('maxBytes', maxBytes);
    if (task.kind === 'DETECT') {
      const { detect } = await import('./detect.ts');
      await tell({ kind: 'DETECTED', detected: await detect(file, task.limits) });
    } else {
      const { readTables } = await import('./read.ts');
      for await (const item of readTables(file, task)) await tellBatch([pack(item)]);
    }
    const { maxRSS, userCPUTime, systemCPUTime } = process.resourceUsage();
    await tell({ kind: 'DONE', peakBytes: maxRSS * 1024, cpuMs: (userCPUTime + systemCPUTime) / 1000 });
  } catch (error) {
    const failure = failureOf(error);
    // What is no error of the document ends this process, and says why on its way out.
    if (!failure) throw error;
    await tell({ kind: 'FAILED', error: failure });
  }
}

process.on('message', (message: Task | Asked) => {
  if (message.kind !== 'TAKEN') return void run(message);
  flow.untaken -= 1;
  flow.taken();
});
// Nobody is there any more who could want it.
process.on('disconnect', () => process.exit());
