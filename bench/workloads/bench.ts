import type { Contender, Running } from '../contenders/index.ts';
import type { Shape } from '../data/shape.ts';
import type { Options } from '../options.ts';

/** What every workload has. */
export interface Bench {
  readonly options: Options;
  readonly shape: Shape;
  readonly contenders: readonly Contender[];
  readonly databaseUrl: string;
  /** Of the database's first process; null: it is somewhere else. */
  readonly databasePid: number | null;
  readonly tell: (what: string) => void;
  start(contender: Contender): Promise<Running>;
}
