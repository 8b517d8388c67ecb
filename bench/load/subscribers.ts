import { fork, type ChildProcess } from 'node:child_process';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { cores } from '../measure.ts';
import type { Command, Report, Subscriber } from './subscriber.ts';

/** Sockets of one process. */
const most = 2500;

/** WebSocket clients in processes of their own, on the core of the load. */
export class Subscribers {
  readonly #children: ChildProcess[] = [];

  async #ask<T>(child: ChildProcess, command: Command): Promise<T> {
    const said = once(child, 'message') as Promise<[{ value?: T; error?: string }]>;
    child.send(command);
    const [{ value, error }] = await said;
    if (error !== undefined) throw new Error(`Subscribers: ${error}`);
    return value as T;
  }

  #all<T>(command: Command): Promise<T[]> {
    return Promise.all(this.#children.map((child) => this.#ask<T>(child, command)));
  }

  async open(url: string, subscribers: readonly Subscriber[]): Promise<void> {
    for (let from = 0; from < subscribers.length; from += most) {
      const child = fork(path.join(import.meta.dirname, 'subscriber.ts'), { serialization: 'advanced' });
      if (cores.others !== null)
        execFileSync('taskset', ['-acp', String(cores.others), String(child.pid)], { stdio: 'ignore' });
      this.#children.push(child);
      await this.#ask(child, { do: 'open', url, subscribers: subscribers.slice(from, from + most) });
    }
  }

  /** Of the clients' processes. */
  get pids(): number[] {
    return this.#children.flatMap(({ pid }) => pid ?? []);
  }

  async reset(): Promise<void> {
    await this.#all({ do: 'reset' });
  }

  /** Messages so far. */
  async count(kind: 'timed' | 'all' = 'timed'): Promise<number> {
    const counts = await this.#all<Record<'timed' | 'all', number>>({ do: 'count' });
    return counts.reduce((sum, one) => sum + one[kind], 0);
  }

  /** Waits until so many messages came. @throws when none has come for a minute */
  async arrived(many: number, kind: 'timed' | 'all' = 'timed'): Promise<void> {
    let before = -1;
    for (let deadline = Date.now() + 60_000; ;) {
      const count = await this.count(kind);
      if (count >= many) return;
      if (count > before) deadline = Date.now() + 60_000;
      before = count;
      if (Date.now() > deadline) {
        const { problems } = await this.report();
        throw new Error(`${count} of ${many} messages arrived. ${problems.join('; ')}`);
      }
      await delay(50);
    }
  }

  /** What all of them saw. */
  async report(): Promise<Report> {
    const reports = await this.#all<Report>({ do: 'report' });
    const times = (key: 'first' | 'last') => reports.map((one) => BigInt(one[key])).filter((time) => time > 0n);
    const sum = (key: 'timed' | 'all' | 'open') => reports.reduce((total, one) => total + one[key], 0);
    return {
      timed: sum('timed'),
      all: sum('all'),
      open: sum('open'),
      latencies: reports.flatMap(({ latencies }) => latencies),
      first: String(times('first').reduce((a, b) => (a < b ? a : b), 2n ** 63n)),
      last: String(times('last').reduce((a, b) => (a > b ? a : b), 0n)),
      samples: reports.flatMap(({ samples }) => samples),
      problems: [...new Set(reports.flatMap(({ problems }) => problems))],
    };
  }

  async close(): Promise<void> {
    await Promise.all(
      this.#children.map(async (child) => {
        const gone = once(child, 'exit');
        child.disconnect();
        await gone;
      }),
    );
  }
}
