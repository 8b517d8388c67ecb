/** Does something so many times, some at once. */
export async function times(count: number, what: (index: number) => Promise<unknown>, atOnce = 8): Promise<void> {
  let next = 0;
  const one = async () => {
    for (let index = next++; index < count; index = next++) await what(index);
  };
  await Promise.all(Array.from({ length: atOnce }, one));
}
