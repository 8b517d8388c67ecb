import type { Run, RunStatus } from '#prisma';
import type { App } from '../app.ts';
import type { Transaction } from '../db/transact.ts';
import { defineEvent, type EventType } from '../events/define.ts';
import type { RunContext } from './context.ts';
import type { Json } from './model.ts';

/** A phase of a kind's state machine. */
export interface Phase {
  /** The run's status while it is in this phase (CANCELING and TIMED_OUT lie over it). */
  readonly status: RunStatus;
  readonly next: readonly string[];
}

/** What the generic machinery needs to know of one kind of run. */
export interface RunKind<I = unknown> {
  /** GraphQL type that implements Run. */
  readonly name: string;
  /** Versions of the input that this program understands; runs with others are left to newer workers. */
  readonly versions: readonly number[];
  readonly phases: Readonly<Record<string, Phase>>;
  readonly initial: string;
  /** Terminal phase, by the phase that it was in, of a run that was canceled or could not be completed. */
  readonly ends: { readonly canceled: (phase: string) => string; readonly failed: (phase: string) => string };
  /**
   * Ids of what a run is about, for instance `{ applicationId }`: for those who follow its runs by that. The same for all
   * of its life; they stand in the data of its first event.
   */
  readonly about?: (input: I) => Readonly<Record<string, string>>;
  /** Steps in order, for those who watch. */
  readonly steps: (input: I) => readonly string[];
  /** First phase of the first execution. */
  readonly begin: (input: I) => string;
  readonly deadlineS: number;
  /** How long it may wait for a person each time, seconds; default: 30 days. That time does not count for `deadlineS`. */
  readonly waitS?: number;
  /**
   * Does the work. Executed again from its start after a lost worker: completed steps return their first output.
   * @returns the terminal phase, or one of status WAITING: it holds no worker then, until `Runs.resume` or `Runs.end`.
   * Resumed, it is executed again like after a lost worker
   * @throws DomainError to end in `ends.failed(phase)` with its message as the reason
   */
  readonly execute: (context: RunContext<I>) => Promise<{ readonly phase: string; readonly reason?: string }>;
  /**
   * Whether there is room for one more of a run's workspace; without it always. Asked in the transaction that would begin
   * its first execution, one at a time for each workspace. One that has no room waits until one of the workspace ends.
   */
  readonly hasRoom?: (tx: Transaction, run: Run, app: App) => Promise<boolean>;
  /**
   * Adds the kind's own rows for a new run.
   * @returns those that hang on the run, by the name of their relation, with the columns that are known
   */
  readonly onCreate: (tx: Transaction, run: Run, input: I, app: App) => Promise<object | void>;
  /** Changes the kind's own rows when the run ends, in the same transaction. */
  readonly onEnd?: (tx: Transaction, run: Pick<Run, 'id' | 'workspaceId'>, phase: string, app: App) => Promise<void>;
  /** Changes the kind's own rows when the run begins to wait, in the same transaction. */
  readonly onWait?: (tx: Transaction, run: Pick<Run, 'id' | 'workspaceId'>, phase: string, app: App) => Promise<void>;
  /** The input of a retry. */
  readonly retryInput: (tx: Transaction, run: Run) => Promise<I & Json>;
}

export interface RegisteredKind extends RunKind<never> {
  /** Event type by phase, `<kind>.<phase>`. */
  readonly events: ReadonlyMap<string, EventType>;
  readonly queued: EventType;
  readonly canceling: EventType;
  readonly requeued: EventType;
  readonly resumed: EventType;
  readonly step: Readonly<Record<'started' | 'succeeded' | 'failed', EventType<StepData>>>;
}

/** Data of the events of a step. */
export interface StepData {
  readonly step: string;
  readonly attempt: number;
}

const kinds = new Map<string, RegisteredKind>();

const camel = (upper: string): string =>
  upper.toLowerCase().replaceAll(/_(.)/g, (_, letter: string) => letter.toUpperCase());

/** Declares a kind of run and its events. */
export function defineRunKind<I>(kind: RunKind<I>): RegisteredKind {
  if (kinds.has(kind.name)) throw new Error(`Two run kinds named ${kind.name}`);
  for (const [name, phase] of Object.entries(kind.phases)) {
    for (const next of phase.next) {
      if (!(next in kind.phases)) throw new Error(`${kind.name}: ${name} leads to ${next}, which is no phase`);
    }
  }
  const prefix = kind.name.charAt(0).toLowerCase() + kind.name.slice(1);
  const event = <D extends object>(name: string, description: string) =>
    defineEvent<D>(`${prefix}.${name}`, { subject: kind.name, description });
  const registered = {
    ...(kind as unknown as RunKind<never>),
    events: new Map(
      Object.keys(kind.phases)
        .filter((phase) => phase !== kind.initial)
        .map((phase) => [phase, event(camel(phase), `It reached the phase ${phase}.`)]),
    ),
    queued: event('queued', 'It was created and waits for a worker. Its data: ids of what it is about.'),
    canceling: event('canceling', 'It was told to stop.'),
    requeued: event('requeued', 'Its worker was lost or stopped: it waits for another one.'),
    resumed: event('resumed', 'A worker took it over from one that was lost or stopped.'),
    step: {
      started: event<StepData>('stepStarted', 'A step began.'),
      succeeded: event<StepData>('stepSucceeded', 'A step completed.'),
      failed: event<StepData>('stepFailed', 'A step failed, or ended with its run.'),
    },
  };
  kinds.set(kind.name, registered);
  return registered;
}

export function runKind(name: string): RegisteredKind {
  const kind = kinds.get(name);
  if (!kind) throw new Error(`This program knows no run kind ${name}`);
  return kind;
}

export const knowsRunKind = (name: string): boolean => kinds.has(name);

export const runKinds = (): readonly RegisteredKind[] => [...kinds.values()];

/** Whether one phase comes before another in a kind's state machine. */
export function leadsTo(kind: RegisteredKind, from: string, to: string): boolean {
  const seen = new Set<string>();
  const open = [from];
  for (let phase = open.pop(); phase !== undefined; phase = open.pop()) {
    for (const next of phaseOf(kind, phase).next) {
      if (next === to) return true;
      if (!seen.has(next)) open.push(next);
      seen.add(next);
    }
  }
  return false;
}

export function phaseOf(kind: RegisteredKind, name: string): Phase {
  const phase = kind.phases[name];
  if (!phase) throw new Error(`${kind.name} has no phase ${name}`);
  return phase;
}
