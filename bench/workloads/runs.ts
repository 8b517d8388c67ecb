import type { Contender, Running } from '../contenders/index.ts';
import { post } from '../load/post.ts';
import { cpu, spent, tree } from '../measure.ts';
import type { Sample } from '../report/results.ts';
import type { Bench } from './bench.ts';

export const runWorkloads = { J1: 'runs with three steps that do nothing, from being asked for until over' } as const;

export const startRunner = (bench: Bench, contender: Contender): Promise<Running> =>
  bench.start({ ...contender, env: { ...contender.env, WORKSPACES: String(bench.shape.workspaces) } });

const make = ({ url }: Running, runs: number): Promise<string> => post(url, JSON.stringify({ runs }), null);

/** A load for a profile. */
export const runsUnderLoad = (bench: Bench, running: Running) => ({
  run: () => make(running, bench.options.runs),
  end: async () => undefined,
});

/** Each contender in turn, round by round, started afresh each time. */
export async function measureRuns(bench: Bench, runners: readonly Contender[]): Promise<Sample[]> {
  const { options, shape, tell } = bench;
  const samples: Sample[] = [];
  for (let round = 1; round <= options.rounds; round++) {
    const turn = (round - 1) % runners.length;
    for (const contender of [...runners.slice(turn), ...runners.slice(0, turn)]) {
      const running = await startRunner(bench, contender);
      try {
        await make(running, Math.max(10, options.runs >> 2)); // warm
        const database = () => (bench.databasePid === null ? new Map<number, number>() : cpu(tree(bench.databasePid)));
        const [before, others] = [running.cpu(), database()];
        const begun = performance.now();
        await make(running, options.runs);
        const seconds = (performance.now() - begun) / 1000;
        const values = {
          perSecond: options.runs / seconds,
          cpuUs: spent(before, running.cpu()) / options.runs,
          ...(bench.databasePid === null ? {} : { databaseUs: spent(others, database()) / options.runs }),
          pssMb: running.pss() / 1024,
        };
        samples.push({ workload: 'J1', contender: contender.name, scale: shape.scale, round, values });
      } finally {
        await running.stop();
      }
    }
    tell(`round ${round}: J1`);
  }
  return samples;
}
