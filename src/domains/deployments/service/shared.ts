import { Prisma, type Application } from '#prisma';
import { required } from '#kernel/app.ts';
import { columnsOf } from '#kernel/db/connection.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { ValidationError, type Issue } from '#kernel/errors.ts';
import type { GitProtocol } from '../../../integrations/git/index.ts';

/** What a workspace may have. */
export interface QuotaLimits {
  readonly maxApplications: number;
  /** Executed at once. */
  readonly maxConcurrentDeployments: number;
  /** Of each application, the one that serves not counted. */
  readonly retainedReleases: number;
  /** Of all of its applications, measured: beyond it nothing more is built. MiB. */
  readonly maxDiskMb: number;
}

/** What the operator of this server allows. */
export interface DeploymentSettings {
  readonly gitProtocols: readonly GitProtocol[];
  /** Stable addresses of applications: no other port is ever one. */
  readonly addressPorts: { readonly from: number; readonly to: number };
  /** The most that an application may be given. */
  readonly maxMemoryMb: number;
  readonly maxMilliCpus: number;
  /** How long a step waits for a driver that is away. */
  readonly driverPatienceS: number;
  /** Of a workspace for which operators have said nothing else. */
  readonly quotas: QuotaLimits;
  /** What must be free on a disk before anything is built there, MiB. */
  readonly minFreeDiskMb: number;
}
export const DeploymentSettings = required<DeploymentSettings>('deployment settings');

export interface Written {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended | null;
}

/** The row, locked until the end of the transaction: what serves changes under this lock only. */
export async function lockApplication(tx: Transaction, id: string): Promise<Application | null> {
  const [application] = await tx.sql<Application>(lockText, [id]);
  return application ?? null;
}
const lockText = `select ${columnsOf(Prisma.ApplicationScalarFieldEnum)} from application where id = $1 for update`;

/** @throws {ValidationError} naming every field that has a complaint */
export function refuse(complaints: readonly (readonly [path: string, message: string | null])[]): void {
  const issues: Issue[] = complaints.flatMap(([path, message]) => (message === null ? [] : [{ path, message }]));
  if (issues.length > 0) throw new ValidationError(issues);
}
