export default function Page() {
  return <p>POST a prompt to /api/generate.</p>;
}
