type Labels = Readonly<Record<string, string>> | null | undefined;

/** Of what an engine tells of its disk, what is looked at. @see https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System/operation/SystemDataUsage */
export interface DiskUsage {
  readonly Images?: readonly { readonly Size: number; readonly SharedSize: number; readonly Labels?: Labels }[] | null;
  readonly Containers?:
    | readonly {
        readonly SizeRw?: number;
        readonly Labels?: Labels;
        readonly Mounts?: readonly { readonly Type?: string; readonly Name?: string }[] | null;
      }[]
    | null;
  readonly Volumes?: readonly { readonly Name: string; readonly UsageData?: { readonly Size: number } | null }[] | null;
}

/**
 * Bytes by application. Layers that an image shares with others count once for each application: its releases share
 * most of them among themselves.
 * @param applicationOf whose something with these labels is; undefined: not this host's
 */
export function sizesOf(usage: DiskUsage, applicationOf: (labels: Labels) => string | undefined): Map<string, number> {
  const sizes = new Map<string, { own: number; shared: number }>();
  const of = (labels: Labels) => {
    const applicationId = applicationOf(labels);
    if (applicationId === undefined) return undefined;
    const found = sizes.get(applicationId) ?? { own: 0, shared: 0 };
    sizes.set(applicationId, found);
    return found;
  };
  for (const { Size, SharedSize, Labels } of usage.Images ?? []) {
    const size = of(Labels);
    if (!size) continue;
    // -1: it was not counted.
    const shared = Math.max(SharedSize, 0);
    size.own += Size - shared;
    size.shared = Math.max(size.shared, shared);
  }
  const volumes = new Map((usage.Volumes ?? []).map((one) => [one.Name, Math.max(one.UsageData?.Size ?? 0, 0)]));
  for (const { SizeRw = 0, Labels, Mounts } of usage.Containers ?? []) {
    const size = of(Labels);
    if (!size) continue;
    size.own += SizeRw;
    for (const { Type, Name = '' } of Mounts ?? []) if (Type === 'volume') size.own += volumes.get(Name) ?? 0;
  }
  return new Map([...sizes].map(([applicationId, { own, shared }]) => [applicationId, own + shared]));
}
