import type { Phase } from '#kernel/runs/kinds.ts';

/**
 * An extraction's state machine. While it waits for a worker it is PENDING; one that a person must look at holds no
 * worker. The database refuses any other phase.
 */
export const extractionPhases = {
  PENDING: { status: 'QUEUED', next: ['RUNNING', 'CANCELED', 'FAILED'] },
  RUNNING: { status: 'RUNNING', next: ['PERSISTING', 'CANCELED', 'FAILED'] },
  PERSISTING: { status: 'RUNNING', next: ['NEEDS_REVIEW', 'SUCCEEDED', 'CANCELED', 'FAILED'] },
  NEEDS_REVIEW: { status: 'WAITING', next: ['SUCCEEDED', 'CANCELED', 'FAILED'] },
  SUCCEEDED: { status: 'SUCCEEDED', next: [] },
  FAILED: { status: 'FAILED', next: [] },
  CANCELED: { status: 'CANCELED', next: [] },
} as const satisfies Record<string, Phase>;
export type ExtractionPhase = keyof typeof extractionPhases;

/** An export's state machine. */
export const exportPhases = {
  PENDING: { status: 'QUEUED', next: ['RUNNING', 'CANCELED', 'FAILED'] },
  RUNNING: { status: 'RUNNING', next: ['SUCCEEDED', 'CANCELED', 'FAILED'] },
  SUCCEEDED: { status: 'SUCCEEDED', next: [] },
  FAILED: { status: 'FAILED', next: [] },
  CANCELED: { status: 'CANCELED', next: [] },
} as const satisfies Record<string, Phase>;
export type ExportPhase = keyof typeof exportPhases;
