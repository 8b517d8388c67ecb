import type { Run, StepStatus } from '#prisma';
import type { App } from '../app.ts';
import { system } from '../auth/actor.ts';
import { isAway } from '../db/away.ts';
import type { Transaction } from '../db/transact.ts';
import { endProcess, type ProcessIdentity } from '../processes/children.ts';
import { createRedactor, type Redactor } from '../redact.ts';
import { DiskFull, isDiskFull } from '../system-error.ts';
import { currentTraceparent, withTrace } from '../telemetry/trace.ts';
import { Fenced, RunCanceled, StepTimedOut } from './errors.ts';
import type { Taken } from './holding.ts';
import { runKind } from './kinds.ts';
import type { LogLevel } from './log-level.ts';
import { LogWriter } from './log-writer.ts';
import type { Json } from './model.ts';
import { Runs, type Hold } from './runs.ts';
import type { Completed } from './steps.ts';

export interface StepOptions {
  readonly timeoutS: number;
  /** Goes on although the run was told to stop: for clean-up and for what is past the point of no return. */
  readonly uncancelable?: boolean;
}

/** What a step is given. */
export interface StepContext {
  /** Aborts on time-out, on cancel, when the worker stops, and when this execution no longer owns the run. */
  readonly signal: AbortSignal;
  /** @param level of a line of SYSTEM, INFO unless it is said; the others tell it themselves */
  log(text: string, stream?: 'STDOUT' | 'STDERR' | 'SYSTEM', level?: LogLevel): Promise<void>;
  /** Records a child process before it does anything, so that a take-over can end it. */
  record(child: ProcessIdentity): Promise<void>;
}

/** What the execution of a run is given. All its writes are conditional on this execution still owning the run. */
export class RunContext<I = unknown> {
  readonly app: App;
  readonly run: Run;
  readonly input: I;
  readonly hold: Hold;
  readonly hostId: string;
  /** Aborts on cancel, deadline, stop and loss; its reason tells which. */
  readonly signal: AbortSignal;
  /** Aborts on stop and loss only. */
  readonly hardSignal: AbortSignal;
  readonly #secrets: string[] = [];
  readonly #writer: LogWriter;
  readonly #heldSince: () => number;
  #redactor: Redactor = createRedactor([]);
  /** Nobody else writes them while the run is ours. */
  readonly #steps: Map<string, { status: StepStatus; output: unknown }>;
  /** Where the run stands, as far as this execution moved it. */
  #phase: string;
  /** A step that is complete and not written yet. */
  #completed: Completed | null = null;
  /** The last that was written of one. */
  #written: Promise<unknown> = Promise.resolve();

  constructor(options: {
    app: App;
    run: Taken;
    hold: Hold;
    hostId: string;
    signal: AbortSignal;
    hardSignal: AbortSignal;
    /** Milliseconds since the lease was last known to be ours. */
    heldSince: () => number;
  }) {
    this.app = options.app;
    this.run = options.run;
    this.input = options.run.input as I;
    this.hold = options.hold;
    this.hostId = options.hostId;
    this.signal = options.signal;
    this.hardSignal = options.hardSignal;
    this.#steps = new Map(Object.entries(options.run.steps ?? {}).map(([name, step]) => [name, { ...step }]));
    this.#phase = options.run.phase;
    this.#heldSince = options.heldSince;
    this.#writer = new LogWriter(this.app, this.hold, this.run.logSeq, () => this.#redactor);
  }

  /** Values that no log line may show. */
  addSecrets(values: readonly string[]): void {
    this.#secrets.push(...values);
    this.#redactor = createRedactor(this.#secrets);
  }

  /** The text without the secrets. */
  redact(text: string): string {
    return this.#redactor.redact(text);
  }

  /** The same for a text that may have been cut off within a secret. */
  redactCut(text: string): string {
    return this.#redactor.redactCut(text);
  }

  /** A transaction that commits only if this execution still owns the run. @throws {Fenced} */
  async write<T>(fn: (tx: Transaction, run: Run) => Promise<T>): Promise<T> {
    await this.settle();
    return this.app.transact(system, async (tx) => fn(tx, await this.app.use(Runs).fence(tx, this.hold)));
  }

  /** Call it before every effect outside the database. @throws {Fenced} when another worker may own the run */
  async fence(): Promise<void> {
    await this.settle();
    this.#mustNotBeStale();
    const held = await this.app.db.run.count({
      where: { id: this.hold.runId, attempt: this.hold.attempt, workerId: this.hold.workerId },
    });
    if (held === 0) throw new Fenced(this.run.id);
  }

  /** A process that was stopped for a while must not trust a look at the database that it made before. */
  #mustNotBeStale(): void {
    if (this.#heldSince() > (this.app.limits.runLeaseS * 1000) / 2) throw new Fenced(this.run.id);
  }

  async moveTo(phase: string, reason?: string): Promise<void> {
    await this.settle();
    this.#phase = await this.app.transact(system, (tx) => this.app.use(Runs).moveTo(tx, this.hold, phase, reason));
  }

  /** Waits until every step that is complete is written. @throws {Fenced} and what keeps it from being written */
  async settle(): Promise<void> {
    const completed = this.#completed;
    if (completed) {
      this.#completed = null;
      this.#writes(this.app.use(Runs).completeStep(this.hold, completed));
    }
    await this.#written;
  }

  #writes(write: Promise<void>): void {
    this.#written = Promise.all([this.#written, write]);
    this.#written.catch(() => undefined); // whoever comes next is told
  }

  /**
   * Its completion goes out with what the run does next: the beginning of the next step, or its end. Where nothing comes in
   * this turn of the event loop, it goes out alone. Whatever else the run writes waits for it.
   */
  async #completesWithNext(completed: Completed): Promise<void> {
    while (this.#completed) await this.settle(); // of two at once
    this.#completed = completed;
    setImmediate(() => {
      if (this.#completed === completed) this.settle().catch(() => undefined); // whoever comes next is told
    });
  }

  /** Writes something with the completion that waits; where the two are refused, each is by itself. */
  async #withCompleted(write: (before: Completed | null) => Promise<void>): Promise<void> {
    const before = this.#completed;
    this.#completed = null;
    await this.#written;
    if (!before) return write(null);
    const both = write(before);
    // Whoever looks meanwhile waits for it.
    const known = both.catch(() => undefined);
    this.#written = Promise.all([this.#written, known]);
    try {
      await both;
    } catch (error) {
      if (error instanceof Fenced) throw error;
      if (isAway(error)) {
        // Nobody knows whether it was written: told again, it would be in the log twice. Another execution finds out.
        this.#writes(both);
        throw error;
      }
      this.#writes(this.app.use(Runs).completeStep(this.hold, before));
      await this.#written;
      await write(null);
    }
  }

  /**
   * Ends the run in one transaction with its last step.
   * @returns false: that failed, for instance because the run was told to stop; its steps are written
   * @throws {Fenced} and what keeps its last step from being written
   */
  async end(end: { readonly phase: string; readonly reason?: string; readonly timedOut: boolean }): Promise<boolean> {
    const run = { ...this.run, status: 'RUNNING', phase: this.#phase } as const;
    try {
      await this.#withCompleted((last) => this.app.use(Runs).finishKnown(this.hold, run, end, last));
      return true;
    } catch (error) {
      if (error instanceof Fenced) throw error;
      await this.#written;
      return false;
    }
  }

  /** @param part done, 0 to 1 */
  async progress(part: number): Promise<void> {
    if (!(part >= 0 && part <= 1)) throw new RangeError(`${part} is no part of a whole`);
    await this.write((tx) => tx.db.run.update({ where: { id: this.run.id }, data: { progress: part } }));
  }

  log(
    text: string,
    step: string | null = null,
    stream: 'STDOUT' | 'STDERR' | 'SYSTEM' = 'SYSTEM',
    level?: LogLevel,
  ): Promise<void> {
    return this.#writer.write(stream, step, text, level);
  }

  /** Writes what was logged. */
  flush(): Promise<void> {
    return this.#writer.flush();
  }

  /**
   * Executes a step once in the life of the run: after a take-over a completed step gives its first output again.
   * A step that does not complete leaves no process of its own behind.
   * @param commit writes that belong to its completion, in the same transaction
   * @throws {StepTimedOut} and whatever `fn` throws
   */
  async step<O extends Json>(
    name: string,
    options: StepOptions,
    fn: (step: StepContext) => Promise<O>,
    commit?: (tx: Transaction, output: O) => Promise<void>,
  ): Promise<O> {
    const key = { runId_name: { runId: this.run.id, name } };
    const before = this.#steps.get(name);
    if (!before) throw new Error(`${this.run.kind} ${this.run.id} has no step ${name}`);
    if (before.status === 'SUCCEEDED') return before.output as O;
    const { attempt } = this.hold;
    const events = runKind(this.run.kind).step;
    const subject = {
      workspaceId: this.run.workspaceId,
      subjectId: this.run.id,
      run: this.run,
      data: { step: name, attempt },
    };
    const outer = options.uncancelable ? this.hardSignal : this.signal;
    outer.throwIfAborted();
    const started = { type: events.started, ...subject, from: before.status, to: 'RUNNING' };
    await this.#withCompleted((last) => this.app.use(Runs).beginStep(this.hold, name, started, last));
    before.status = 'RUNNING';
    const startedAt = performance.now();
    const observe = (outcome: string) =>
      this.app.metrics.stepSeconds.observe(
        { kind: this.run.kind, step: name, outcome },
        (performance.now() - startedAt) / 1000,
      );
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(new StepTimedOut(name, options.timeoutS)), options.timeoutS * 1000);
    const signal = AbortSignal.any([outer, timeout.signal]);
    const children: ProcessIdentity[] = [];
    try {
      this.#mustNotBeStale();
      const output = await withTrace(currentTraceparent(), `step ${name}`, () =>
        fn({
          signal,
          log: (text, stream = 'SYSTEM', level?) => this.log(text, name, stream, level),
          record: async (child) => {
            await this.app.use(Runs).recordChild(this.hold, this.hostId, child);
            children.push(child);
          },
        }),
      );
      await this.flush();
      const completed = {
        name,
        output,
        event: { type: events.succeeded, ...subject, from: 'RUNNING', to: 'SUCCEEDED' },
      };
      if (commit || children.length > 0) {
        await this.app.use(Runs).completeStep(this.hold, completed, {
          children: children.length > 0,
          ...(commit ? { commit: (tx) => commit(tx, output) } : {}),
        });
      } else await this.#completesWithNext(completed);
      Object.assign(before, { status: 'SUCCEEDED', output });
      observe('succeeded');
      return output;
    } catch (thrown) {
      // An abort surfaces in many forms: its reason is what happened.
      const happened: unknown = signal.aborted ? signal.reason : thrown;
      const error = isDiskFull(happened) ? new DiskFull() : happened;
      observe('failed');
      if (!(error instanceof Fenced) && !this.hardSignal.aborted) {
        for (const child of children) await endProcess(child, { graceMs: 0 });
        await this.flush();
        const status = this.signal.aborted || error instanceof RunCanceled ? 'CANCELED' : 'FAILED';
        before.status = status;
        await this.write(async (tx) => {
          await tx.db.runChild.deleteMany({ where: { runId: this.run.id, attempt } });
          const message = error instanceof Error ? error.message : String(error);
          await tx.db.runStep.update({
            where: key,
            data: {
              status,
              error: this.#redactor.redact(message).slice(0, 2000),
              completedAt: new Date(),
            },
          });
          tx.append({
            type: events.failed,
            ...subject,
            from: 'RUNNING',
            to: status,
          });
        });
      }
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }
}
