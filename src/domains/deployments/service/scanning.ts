import { required, type Service } from '#kernel/app.ts';
import { createScanners, type Scanners } from '../../../integrations/scanners/index.ts';

/** What the operator says about scans. */
export interface ScanningOptions {
  /** Folder or file of advisories in the OSV format. */
  readonly advisoriesPath: string | undefined;
  /** npm registry that is asked for advisories. */
  readonly advisoryRegistryUrl: string | undefined;
  readonly trivy: 'auto' | 'on' | 'off';
}

/** How the worker of this host scans. */
export interface Scanning {
  readonly scanners: Scanners;
  /** Whether a deployment fails that Trivy did not scan. */
  readonly trivyRequired: boolean;
}
export const Scanning = required<Scanning>('scanners of a host: does this process have a worker?');

/** @throws Error when Trivy has to be there and is not */
export async function provideScanning(
  provided: Map<Service<unknown>, unknown>,
  options: ScanningOptions & {
    readonly allowLoopback: boolean;
    readonly pathDirs: readonly string[];
    readonly cacheDir: string;
    readonly environment: Readonly<Record<string, string>>;
  },
): Promise<Scanners> {
  const { advisoriesPath, advisoryRegistryUrl, allowLoopback, pathDirs, cacheDir, environment } = options;
  const scanners = await createScanners({
    advisories: { osvPath: advisoriesPath ?? null, registryUrl: advisoryRegistryUrl ?? null, allowLoopback },
    trivy: { mode: options.trivy, pathDirs, cacheDir, environment },
  });
  provided.set(Scanning, { scanners, trivyRequired: options.trivy === 'on' } satisfies Scanning);
  return scanners;
}
