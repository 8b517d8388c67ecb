// A thread of its own: regular expressions over megabytes of somebody else's text would stop the event loop.
import { parentPort } from 'node:worker_threads';
import { codeOf } from '#kernel/system-error.ts';
import { dependencies, type AdvisorySources } from './dependencies/index.ts';
import { dockerfiles } from './dockerfile/index.ts';
import { noReport, reportOf, type Outcome, type Report, type ScannerName } from './scanner.ts';
import { secrets } from './secrets/index.ts';
import { openSource, type Source } from './source.ts';
import { aboutOf, findingsOf } from './trivy/report.ts';
import type { TrivyOutput } from './trivy/index.ts';

export interface ScanTask {
  readonly folder: string;
  readonly key: string;
  readonly advisories: AdvisorySources;
  readonly scanners: readonly ScannerName[];
  /** What Trivy said, where it is one of the scanners. */
  readonly trivy: TrivyOutput | null;
}

/** What the thread says: a scanner begins, or gives its report. */
export type ScanMessage = { readonly begun: ScannerName } | { readonly report: Report };

async function outcomeOf(name: ScannerName, task: ScanTask, source: Source): Promise<Outcome> {
  switch (name) {
    case 'SECRETS':
      return secrets.scan(source);
    case 'DEPENDENCIES':
      return dependencies(task.advisories).scan(source);
    case 'DOCKERFILE':
      return dockerfiles.scan(source);
    case 'TRIVY': {
      if (!task.trivy) throw new Error('Trivy said nothing.');
      const { version, databaseDate } = aboutOf(task.trivy.about);
      return {
        status: 'RAN',
        version,
        database: { name: "Trivy's vulnerability database", date: databaseDate },
        findings: findingsOf(task.trivy.report),
      };
    }
    default:
      return name satisfies never;
  }
}

/** What the system says names paths of this host, which are nobody's business. */
const toldOf = (error: unknown): string => String(codeOf(error) ?? (error instanceof Error ? error.message : error));

async function work(task: ScanTask): Promise<void> {
  // A thread has no origin.
  // oxlint-disable-next-line unicorn/require-post-message-target-origin
  const tell = (message: ScanMessage): void => parentPort?.postMessage(message);
  let source: Source | null = null;
  for (const name of task.scanners) {
    tell({ begun: name });
    try {
      source ??= await openSource(task.folder);
      tell({ report: reportOf(name, task.key, await outcomeOf(name, task, source)) });
    } catch (error) {
      tell({ report: noReport(name, 'FAILED', `It failed: ${toldOf(error)}`) });
    }
  }
}

parentPort?.on('message', (task: ScanTask) => void work(task));
