import { z } from 'zod';
import type { RunStatus } from '#prisma';

/** Where a rotation of the encryption keys stands. */
export type KeyRotationPhase = 'PENDING' | 'ROTATING' | 'ROTATED' | 'FAILED' | 'CANCELED';

export const phases: Readonly<
  Record<KeyRotationPhase, { readonly status: RunStatus; readonly next: readonly KeyRotationPhase[] }>
> = {
  PENDING: { status: 'QUEUED', next: ['ROTATING', 'FAILED', 'CANCELED'] },
  ROTATING: { status: 'RUNNING', next: ['ROTATED', 'FAILED', 'CANCELED'] },
  ROTATED: { status: 'SUCCEEDED', next: [] },
  FAILED: { status: 'FAILED', next: [] },
  CANCELED: { status: 'CANCELED', next: [] },
};

/** What a rotation is asked to do. A type, because an interface is no JSON. */
export type KeyRotationInput = {
  /** Id of the key that everything is to be sealed by. */
  readonly keyId: string;
};

/** What became of a column's values. */
const ColumnReport = z.object({ rewrapped: z.int(), failed: z.int() });

/** By name of the column. */
export const Report = z.record(z.string(), ColumnReport);
export type Report = z.output<typeof Report>;
